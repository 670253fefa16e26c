//! How an error is told: in one line, each cause once, with what to do about it where that is known.

pub use processor::failure::{in_one_line, with_advice};
