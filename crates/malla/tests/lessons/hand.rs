//! The ways to carry out a lesson: `kubectl` with its file, or the console in a browser.

use std::path::{Path, PathBuf};
use std::process::Command;

use malla_testkit::Demo;

/// Who works on the mesh.
pub(crate) trait Hand {
    /// Carries out the lesson whose file in `demo/lessons` has this name.
    fn lesson(&self, name: &str);

    /// Deletes a rule of namespace `base`.
    fn delete(&self, kind: &str, name: &str);
}

/// Applies and deletes by real `kubectl`, which may have nothing to warn of.
pub(crate) struct Kubectl<'a>(pub(crate) &'a Demo);

impl Hand for Kubectl<'_> {
    fn lesson(&self, name: &str) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../demo/lessons")
            .join(format!("{name}.yaml"));
        let output = self.0.kubectl(&["apply", "-f", file.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{name}: {said}");
    }

    fn delete(&self, kind: &str, name: &str) {
        drop(self.0.kubectl_ok(&["-n", "base", "delete", kind, name]));
    }
}

/// Clicks and types in the console by Chromium; every lesson's light has to turn green there.
pub(crate) struct Console {
    url: String,
}

impl Console {
    pub(crate) fn new(url: &str) -> Self {
        assert!(url.starts_with("http://127.0.0.1:"), "{url}");
        Self {
            url: url.to_owned(),
        }
    }

    /// Where the console says that the shop is reached.
    pub(crate) fn gateway_address(&self) -> String {
        self.browse("console.cjs", &["gateway-address", &self.url])
    }

    /// Visits every page and writes its picture into a folder.
    pub(crate) fn tour(&self, pictures: &Path) {
        let pictures = pictures.to_str().unwrap();
        drop(self.browse("console_tour.cjs", &[&self.url, pictures]));
    }

    fn browse(&self, script: &str, arguments: &[&str]) -> String {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("tests/browser")
            .join(script);
        let output = Command::new("node")
            .arg(script)
            .args(arguments)
            .output()
            .expect("node is installed");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Hand for Console {
    fn lesson(&self, name: &str) {
        drop(self.browse("console.cjs", &[name, &self.url]));
    }

    fn delete(&self, _: &str, name: &str) {
        drop(self.browse("console.cjs", &[&format!("delete-{name}"), &self.url]));
    }
}
