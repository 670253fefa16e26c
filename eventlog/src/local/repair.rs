//! stub
use crate::LogError;
use std::path::Path;
pub(super) fn open<T>(_dir: &Path, open: impl Fn() -> Result<T, LogError>) -> Result<T, LogError> {
    open()
}
