//! How an error is told: in one line, each cause once.

pub use processor::failure::in_one_line;
