//! Finds the LevelDB table file that is damaged.
