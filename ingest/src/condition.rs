//! How a running gateway does, for who watches the process.

use crate::routes::{Gateway, KnownDataset};
use std::sync::{Arc, OnceLock, Weak};

/// A view of the gateway that was started with it; before that, of nothing.
#[derive(Clone, Default)]
pub struct Condition(Arc<OnceLock<Weak<Gateway>>>);

impl Condition {
    pub(crate) fn watch(&self, gateway: &Arc<Gateway>) {
        // A second gateway with the same view would be a mistake of the caller; the first one stays.
        let _ = self.0.set(Arc::downgrade(gateway));
    }

    /// What keeps events from the log now; `None` if nothing does.
    ///
    /// Not a reason to take the gateway out of service: it answers 503 at once by itself, and by the requests that come
    /// it finds out when the log is back.
    pub fn trouble(&self) -> Option<String> {
        self.0.get()?.upgrade()?.trouble()
    }

    /// What waits in the queue on disk; `None` if nothing does.
    pub fn spilled(&self) -> Option<String> {
        self.0.get()?.upgrade()?.spill.as_ref()?.waiting()
    }
}

impl Gateway {
    fn trouble(&self) -> Option<String> {
        let now = self.clock.elapsed();
        let open = |(name, dataset): (&String, &KnownDataset)| {
            let waited = dataset.breaker.facts().waited(now).as_secs_f64();
            let why = if waited > 0.0 { format!("not answered for {waited:.1} s") } else { "failing".to_owned() };
            dataset.breaker.is_open(now).then(|| format!("{name} ({why})"))
        };
        let mut open: Vec<String> = self.datasets.iter().filter_map(open).collect();
        open.sort_unstable();
        (!open.is_empty()).then(|| format!("breaker open, appends to the log: {}", open.join(", ")))
    }
}
