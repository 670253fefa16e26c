//! Memory of this process, as Linux counts it.

/// Bytes that are resident now.
pub fn now() -> u64 {
    status("VmRSS:")
}

/// The most bytes that were ever resident.
pub fn peak() -> u64 {
    status("VmHWM:")
}

/// 0 on a system that does not tell.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or_default() * 1024
}
