//! The documentation is true: what it names exists, and every series is in it.

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|err| panic!("{path}: {err}"))
}

/// Collects what the roles say about their series.
#[derive(Default)]
struct Described(Mutex<BTreeMap<String, (&'static str, String)>>);

impl Described {
    fn add(&self, key: KeyName, kind: &'static str, description: SharedString) {
        self.0.lock().unwrap().insert(key.as_str().to_owned(), (kind, description.into_owned()));
    }
}

impl Recorder for Described {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.add(key, "counter", description);
    }
    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.add(key, "gauge", description);
    }
    fn describe_histogram(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.add(key, "histogram", description);
    }
    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn metrics_md_lists_every_series() {
    let described = Described::default();
    metrics::with_local_recorder(&described, || {
        ingest::metrics::describe();
        processor::metrics::describe();
        compactor::metrics::describe();
    });
    let mut page = String::from(
        "# Metrics\n\nServed at `/metrics` of the admin listener. A role has the series of its own name; `up` has all. \
         Times are in\nseconds, sizes in bytes.\n\n| series | kind | what it says |\n|---|---|---|\n",
    );
    for (name, (kind, description)) in described.0.into_inner().unwrap() {
        page.push_str(&format!("| `{name}` | {kind} | {description} |\n"));
    }
    if std::env::var_os("LAKEHOSE_TEST_UPDATE").is_some() {
        std::fs::write(root().join("docs/METRICS.md"), &page).unwrap();
    }
    assert!(
        read("docs/METRICS.md") == page,
        "docs/METRICS.md is not what the code says; write it anew: LAKEHOSE_TEST_UPDATE=1 infra/test -p cli --test docs"
    );
}

#[test]
fn every_path_that_the_documentation_names_exists() {
    let mut pages = vec!["README.md".to_owned(), "infra/README.md".to_owned(), "infra/sample/README.md".to_owned()];
    for folder in ["docs", "docs/adr"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                pages.push(format!("{folder}/{name}"));
            }
        }
    }
    let mut missing = Vec::new();
    for page in pages {
        let text = read(&page);
        let folder = Path::new(&page).parent().unwrap().to_owned();
        let quoted = text.split('`').skip(1).step_by(2).map(|path| (Path::new("").to_owned(), path));
        let linked = text.split("](").skip(1).filter_map(|rest| Some((folder.clone(), rest.split_once(')')?.0)));
        for (from, path) in quoted.chain(linked) {
            let crates = ["ingest/", "processor/", "compactor/", "eventlog/", "lake/", "cli/", "infra/", "docs/"];
            let is_path = from != Path::new("") || crates.iter().any(|name| path.starts_with(name));
            let plain = path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
            if is_path && plain && !root().join(&from).join(path).exists() {
                missing.push(format!("{page}: {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// In tables whose last column is `test`, that column names files, each followed by test functions in it.
#[test]
fn every_test_that_the_documentation_names_exists() {
    let (mut wrong, mut found) = (Vec::new(), 0);
    for page in ["docs/ARCHITECTURE.md", "docs/FAULTS.md", "docs/SECURITY.md"] {
        let mut in_table = false;
        for line in read(page).lines() {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let is_head = cells.last() == Some(&"test");
            in_table = is_head || (in_table && line.starts_with('|'));
            if !in_table || is_head || line.starts_with("|---") {
                continue;
            }
            let tests = tests_in(cells[cells.len() - 1]);
            if tests.is_empty() {
                wrong.push(format!("{page}: no test: {line}"));
            }
            for (file, function) in tests {
                let is_there = root().join(file).is_file() && read(file).contains(&format!("fn {function}("));
                match is_there {
                    true => found += 1,
                    false => wrong.push(format!("{page}: no `{function}` in {file}")),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(found > 30, "only {found} tests are named");
}

/// File and function of each test that a cell names.
fn tests_in(cell: &str) -> Vec<(&str, &str)> {
    let (mut file, mut tests) = ("no file", Vec::new());
    for word in cell.split('`').skip(1).step_by(2) {
        match word.contains('/') {
            true => file = word,
            false => tests.push((file, word)),
        }
    }
    tests
}

#[test]
fn a_cell_names_files_and_the_tests_in_them() {
    assert_eq!(
        tests_in("`a/b.rs` `one` `two`, `c/d.rs` `three`"),
        [("a/b.rs", "one"), ("a/b.rs", "two"), ("c/d.rs", "three")]
    );
    assert_eq!(tests_in("none"), []);
    assert_eq!(tests_in("`alone`"), [("no file", "alone")]);
}
