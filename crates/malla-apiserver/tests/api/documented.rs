//! `docs/local-cluster.md` names a test for everything it says the API does; each of them must exist.

use std::path::Path;

const PAGE: &str = include_str!("../../../../docs/local-cluster.md");

/// `kubectl::names_are_generated`, or `crates/.../controllers.rs::name` for tests elsewhere.
fn exists(reference: &str) -> bool {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let (file, test) = reference.rsplit_once("::").unwrap();
    let file = match file.strip_prefix("crates/") {
        Some(path) => crates.join(path),
        None => crates.join(format!("malla-apiserver/tests/api/{file}.rs")),
    };
    let source = std::fs::read_to_string(&file).unwrap_or_default();
    // The node's tests run inside namespaces, and are registered by name.
    let function = format!("fn {test}(");
    let mut lines = source.lines().peekable();
    while let Some(line) = lines.next() {
        let attribute = line.trim().starts_with("#[") && line.contains("test");
        if attribute && lines.peek().is_some_and(|next| next.contains(&function)) {
            return true;
        }
    }
    source.contains(&format!("tests.run(\"{test}\""))
}

#[test]
fn every_row_names_tests_that_exist() {
    let (_, proven) = PAGE.split_once("### What is proven").unwrap();
    let (proven, _) = proven.split_once("\n### ").unwrap();
    let rows = proven.lines().filter(|line| line.starts_with('|'));
    let rows = rows.filter(|line| !line.starts_with("|---") && !line.ends_with("| Tests |"));
    let mut count = 0;
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let tests = cells.last().unwrap();
        let references: Vec<&str> = tests
            .split('`')
            .filter(|text| text.contains("::"))
            .collect();
        assert!(!references.is_empty(), "no test: {row}");
        for reference in references {
            assert!(exists(reference), "there is no test {reference}: {row}");
        }
        count += 1;
    }
    assert!(count > 30, "the tables are where this test looks: {count}");
}

#[test]
fn every_kind_of_the_page_is_tried() {
    for sample in crate::samples::samples() {
        let (group, kind) = (&sample.api_version, &sample.kind);
        let row = PAGE
            .lines()
            .find(|line| line.starts_with(&format!("| `{group}` |")));
        let listed = row.is_some_and(|row| {
            row.split(['|', ',', '(', ' '])
                .any(|word| word.trim() == kind)
        });
        assert!(listed || kind == "Thing", "{group} {kind} is not listed");
    }
}
