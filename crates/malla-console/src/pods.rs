//! Pods found by a selector without looking at all of them.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use crate::mirror::{Object, labels, selects};

/// Pods by namespace and each of their labels.
#[derive(Debug)]
pub(crate) struct PodIndex<'a> {
    by_label: HashMap<(&'a str, &'a str, &'a str), Vec<&'a Arc<Object>>>,
}

impl<'a> PodIndex<'a> {
    pub(crate) fn new(pods: &'a [Arc<Object>]) -> Self {
        let mut by_label: HashMap<_, Vec<_>> = HashMap::new();
        for pod in pods {
            for (name, value) in labels(&pod.value).into_iter().flatten() {
                if let Some(value) = value.as_str() {
                    let key = (pod.namespace(), name.as_str(), value);
                    by_label.entry(key).or_default().push(pod);
                }
            }
        }
        Self { by_label }
    }

    /// The pods behind a Service; none for one without a selector.
    pub(crate) fn behind(&self, service: &Object) -> Vec<Arc<Object>> {
        let selector = service.value.pointer("/spec/selector");
        let Some((selector, first)) =
            selector.and_then(|s| Some((s, s.as_object()?.iter().next()?)))
        else {
            return Vec::new();
        };
        let (name, Value::String(value)) = first else {
            return Vec::new();
        };
        let key = (service.namespace(), name.as_str(), value.as_str());
        let candidates = self.by_label.get(&key).into_iter().flatten();
        candidates
            .filter(|pod| selects(selector, &pod.value))
            .map(|pod| Arc::clone(pod))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(namespace: &str, labels: &Value, selector: &Value) -> Arc<Object> {
        let value = json!({"metadata": {"namespace": namespace, "labels": labels}, "spec": {"selector": selector}});
        Arc::new(Object {
            value,
            writer: None,
        })
    }

    #[test]
    fn a_service_finds_its_pods() {
        let pods = [
            object("a", &json!({"app": "x", "tier": "web"}), &Value::Null),
            object("a", &json!({"app": "x"}), &Value::Null),
            object("b", &json!({"app": "x", "tier": "web"}), &Value::Null),
        ];
        let index = PodIndex::new(&pods);
        let found = |selector: Value| index.behind(&object("a", &Value::Null, &selector)).len();
        assert_eq!(found(json!({"app": "x"})), 2);
        assert_eq!(found(json!({"app": "x", "tier": "web"})), 1);
        assert_eq!(found(json!({"app": "y"})), 0);
        assert_eq!(found(json!({})), 0);
        assert_eq!(found(Value::Null), 0);
        assert_eq!(found(json!({"app": 1})), 0);
    }
}
