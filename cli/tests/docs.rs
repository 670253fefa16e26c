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
    assert_generated("docs/METRICS.md", &page);
}

#[test]
fn refusals_md_lists_every_refusal_with_an_example() {
    let document = ingest::openapi();
    let mut page = String::from(
        "# Refusals\n\nEvery way in which the gateway says no. Each answer is `application/problem+json` (RFC 9457); \
         programs may rely on\n`type` and the status, the rest is for people. The same is in `/openapi.json` of every \
         gateway.\n",
    );
    let responses = document["paths"]["/v1/events/{dataset}"]["post"]["responses"].as_object().unwrap();
    for (status, response) in responses {
        let Some(content) = response["content"].get("application/problem+json") else { continue };
        for example in content["examples"].as_object().unwrap().values() {
            let text = |member: &str| example[member].as_str().unwrap();
            let body = &example["value"];
            let kind = body["type"].as_str().unwrap();
            page.push_str(&format!("\n## {status} `{}`\n\n", kind.rsplit(':').next().unwrap()));
            page.push_str(&format!("{}. {}\n\n**Do:** {}\n", text("summary"), text("x-when"), text("x-advice")));
            page.push_str(&format!("\n```json\n{}\n```\n", serde_json::to_string_pretty(body).unwrap()));
        }
    }
    assert_generated("docs/REFUSALS.md", &page);
}

/// Writes the page anew if that is asked for.
#[track_caller]
fn assert_generated(path: &str, page: &str) {
    if std::env::var_os("LAKEHOSE_TEST_UPDATE").is_some() {
        std::fs::write(root().join(path), page).unwrap();
    }
    assert!(
        read(path) == page,
        "{path} is not what the code says; write it anew: LAKEHOSE_TEST_UPDATE=1 infra/test -p cli --test docs"
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

/// Under a line that names a file of examples stands a part of that file.
#[test]
fn what_the_documentation_shows_of_an_example_is_in_it() {
    let page = read("docs/DEVICES.md");
    let lines: Vec<&str> = page.lines().collect();
    let mut shown = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let named = line.split('`').skip(1).step_by(2).find(|path| path.starts_with("docs/examples/"));
        let (Some(file), true) = (named, line.ends_with(':')) else { continue };
        let block: Vec<&str> = lines[at + 2..].iter().map_while(|line| line.strip_prefix("    ")).collect();
        let margin = |line: &&str| line.len() - line.trim_start().len();
        let text = read(file);
        let whole: Vec<&str> = text.lines().collect();
        // A part is shown with its own margin.
        let is_there = whole.windows(block.len()).any(|part| {
            let more = margin(&part[0]) - margin(&block[0]).min(margin(&part[0]));
            part.iter().zip(&block).all(|(found, line)| found.get(more..).unwrap_or_default() == *line)
        });
        assert!(!block.is_empty() && is_there, "not in {file}:\n{}", block.join("\n"));
        shown.push(file);
    }
    assert_eq!(shown, ["docs/examples/post.sh", "docs/examples/device.py", "docs/examples/device.c"]);
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
