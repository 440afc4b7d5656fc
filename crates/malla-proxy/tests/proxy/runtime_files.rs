//! A layer of the runtime in files: what moves into place is followed, as by Envoy.
use super::sources::{Files, answers};
use super::support::{bootstrap, free_port, http, listener, under};

/// A new folder of values, moved into place by a link.
fn put(files: &Files, version: u32, percent: u32) {
    let folder = files.path(&format!("v{version}/proxy/to"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("one"), format!("{percent}\n")).unwrap();
    let link = files.path(".new");
    std::os::unix::fs::symlink(files.path(&format!("v{version}")), &link).unwrap();
    std::fs::rename(link, files.path("current")).unwrap();
}

#[tokio::test]
async fn a_layer_of_files_is_followed() {
    let answer = |text: &str| {
        format!("direct_response: {{ status: 200, body: {{ inline_string: {text} }} }}")
    };
    let routes = format!(
        "{{ match: {{ prefix: /, runtime_fraction: {{ default_value: {{ numerator: 0 }}, runtime_key: to.one }} }}, {} }}, {{ match: {{ prefix: / }}, {} }}",
        answer("one"),
        answer("other")
    );
    for with_envoy in [true, false] {
        let (files, address) = (Files::new(), free_port());
        put(&files, 1, 0);
        let yaml = format!(
            "node: {{ id: me, cluster: us }}\nlayered_runtime: {{ layers: [ {{ name: files, disk_layer: {{ symlink_root: {}, subdirectory: proxy }} }} ] }}\n{}",
            files.path("current").display(),
            bootstrap(&[listener("in", address, &http(&routes, ""), "")], &[])
                .replace("  clusters:\n", "")
        );
        let scenario = async || {
            answers(address, "other").await;
            put(&files, 2, 100);
            answers(address, "one").await;
            put(&files, 3, 0);
            answers(address, "other").await;
        };
        under(with_envoy, &yaml, scenario).await;
    }
}
