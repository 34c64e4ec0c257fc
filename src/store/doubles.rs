//! Memory doubles of the stores, which lose what was not synced.
