//! What the embedded log promises beyond the common contract: it survives its process, keeps to its disk, and never
//! deletes what the table does not have.

mod bed;
mod crash;
mod recovery;
mod visibility;
mod retention;
