//! What lies in the bucket and how it changes.

pub mod event;
pub mod dataset;
