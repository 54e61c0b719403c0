"""Problems that entries of several papers share."""
