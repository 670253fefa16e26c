//! What a caller may post: which datasets, and for which devices.

use std::sync::Arc;

/// What a key or a token is good for. By default everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// The datasets that may be posted to; `None`: all.
    pub datasets: Option<Arc<[String]>>,
    pub devices: Devices,
}

impl Scope {
    pub(crate) fn allows_dataset(&self, name: &str) -> bool {
        self.datasets.as_ref().is_none_or(|allowed| allowed.iter().any(|allowed| allowed == name))
    }
}

/// Whose events may be posted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Devices {
    #[default]
    Any,
    /// Those whose `device_id` begins so: of a tenant, of a site.
    Prefix(Arc<str>),
    /// One device.
    Only(Arc<str>),
}

impl Devices {
    pub(crate) fn allow(&self, device_id: &str) -> bool {
        match self {
            Devices::Any => true,
            Devices::Prefix(prefix) => device_id.starts_with(&**prefix),
            Devices::Only(only) => device_id == &**only,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_of_bytes_and_one_device_is_not_a_prefix() {
        assert!(Devices::Any.allow(""));
        let prefix = Devices::Prefix("site-1/".into());
        assert!(prefix.allow("site-1/a") && prefix.allow("site-1/"));
        assert!(!prefix.allow("site-10/a") && !prefix.allow("Site-1/a") && !prefix.allow(" site-1/a"));
        let only = Devices::Only("sensor-1".into());
        assert!(only.allow("sensor-1") && !only.allow("sensor-10") && !only.allow("sensor-"));
    }

    #[test]
    fn no_dataset_is_not_all_of_them() {
        let scope = |datasets: &[&str]| Scope {
            datasets: Some(datasets.iter().map(|name| name.to_string()).collect()),
            ..Scope::default()
        };
        assert!(Scope::default().allows_dataset("events"));
        assert!(scope(&["events"]).allows_dataset("events") && !scope(&["events"]).allows_dataset("event"));
        assert!(!scope(&[]).allows_dataset("events"));
    }
}
