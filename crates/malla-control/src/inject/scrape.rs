//! Where a pod's metrics are scraped: at the agent, which adds the application's own to those of the proxy (Istio's
//! `enablePrometheusMerge`).
//!
//! The application's `prometheus.io/*` annotations move into the agent's environment, and the pod is annotated with the
//! agent's port. Who says `prometheus.io/scrape: "false"` or `prometheus.istio.io/merge-metrics: "false"` keeps them.

use serde_json::{Map, Value, json};

/// The agent's environment variable.
pub(super) const VARIABLE: &str = "ISTIO_PROMETHEUS_ANNOTATIONS";
const PATH: &str = "/stats/prometheus";

/// Points scrapers of the pod to the agent at `port`. Returns where the application has metrics of its own, as the agent
/// reads it, if it has said that.
pub(super) fn redirect(pod: &mut Value, port: u16) -> Option<String> {
    let slot = &mut pod["metadata"]["annotations"];
    if !slot.is_object() {
        *slot = json!({});
    }
    let annotations = slot.as_object_mut()?;
    let off = |annotations: &Map<String, Value>, key: &str| {
        let value = annotations.get(key).and_then(Value::as_str);
        value.is_some_and(|value| value.eq_ignore_ascii_case("false"))
    };
    if off(annotations, "prometheus.istio.io/merge-metrics")
        || find(annotations, "scrape").is_some_and(|value| value.eq_ignore_ascii_case("false"))
    {
        return None;
    }
    let own = port.to_string();
    let [scrape, theirs, path] =
        ["scrape", "port", "path"].map(|what| find(annotations, what).unwrap_or_default());
    // A pod that was injected before is not its own application.
    let again = theirs == own;
    let said = !again
        && [&scrape, &theirs, &path]
            .iter()
            .any(|said| !said.is_empty());
    annotations.retain(|key, _| !["scrape", "port", "path"].iter().any(|what| is(key, what)));
    for (what, value) in [("scrape", "true"), ("port", &own), ("path", PATH)] {
        annotations.insert(format!("prometheus.io/{what}"), json!(value));
    }
    said.then(|| json!({"scrape": scrape, "port": theirs, "path": path}).to_string())
}

fn find(annotations: &Map<String, Value>, what: &str) -> Option<String> {
    let found = annotations.iter().find(|(key, _)| is(key, what));
    Some(found?.1.as_str()?.to_owned())
}

/// Prometheus does not tell `prometheus.io/port` from `prometheus_io_port`, and would take either.
fn is(key: &str, what: &str) -> bool {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    key.chars()
        .map(plain)
        .eq("prometheus_io_".chars().chain(what.chars()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::redirect;

    #[track_caller]
    fn check(annotations: Value, want: Value, moved: Option<Value>) {
        let mut pod = json!({"metadata": {"annotations": annotations}});
        let text = redirect(&mut pod, 15020);
        assert_eq!(pod["metadata"]["annotations"], want);
        let text = text.map(|text| serde_json::from_str::<Value>(&text).unwrap());
        assert_eq!(text, moved);
    }

    #[test]
    fn scrapers_are_sent_to_the_agent() {
        let agent = json!({
            "prometheus.io/scrape": "true", "prometheus.io/port": "15020", "prometheus.io/path": "/stats/prometheus",
        });
        check(Value::Null, agent.clone(), None);
        check(
            json!({"prometheus.io/scrape": "true", "prometheus.io/port": "9090"}),
            agent.clone(),
            Some(json!({"scrape": "true", "port": "9090", "path": ""})),
        );
        check(
            json!({"prometheus.io.path": "/m", "other": "kept"}),
            json!({
                "prometheus.io/scrape": "true", "prometheus.io/port": "15020",
                "prometheus.io/path": "/stats/prometheus", "other": "kept",
            }),
            Some(json!({"scrape": "", "port": "", "path": "/m"})),
        );
        check(agent.clone(), agent, None);
    }

    #[test]
    fn who_does_not_want_that_is_left_alone() {
        for own in [
            json!({"prometheus.io/scrape": "false", "prometheus.io/port": "1"}),
            json!({"prometheus.istio.io/merge-metrics": "False", "prometheus.io/port": "1"}),
        ] {
            check(own.clone(), own, None);
        }
    }
}
