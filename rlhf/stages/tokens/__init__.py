"""From prepared records to tokens: encoded by all cores, kept in a cache that ranks and later runs share."""
