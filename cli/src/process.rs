//! What the process takes from the machine, under the names that dashboards know.

use metrics::gauge;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Lets the process have as many files and connections open as the system lets it: shells and service managers give 1,024
/// to begin with, for programs that still use `select`.
pub fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // What it has is enough to begin with; a gateway that runs out of files says so.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// Measures now. Where the system does not tell, a figure is left out.
pub fn measure() {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    gauge!("process_cpu_seconds_total").set(cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9);
    if let Some(pages) = resident_pages() {
        gauge!("process_resident_memory_bytes").set((pages * rustix::param::page_size() as u64) as f64);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        gauge!("process_open_fds").set(open.count() as f64);
    }
}

fn resident_pages() -> Option<u64> {
    std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()
}
