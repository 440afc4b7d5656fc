//! What a pod may know of itself: `fieldRef` and `resourceFieldRef`.
//!
//! Pure. Follows the kubelet: labels and annotations by subscript or all at once, resources
//! divided and rounded up, a missing limit means what the machine has.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Addresses that are known once the pod has its network.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    pub(super) pod_ip: String,
    pub(super) host_ip: String,
    pub(super) node: String,
}

/// What the machine has, for limits that are not set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Capacity {
    pub(super) milli_cpus: i128,
    pub(super) memory_bytes: i128,
}

/// A reference that means nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FieldError {
    #[error("unsupported fieldPath {0:?}")]
    Path(String),
    #[error("unsupported resource {0:?}")]
    Resource(String),
    #[error("container {0:?} not found in the pod")]
    Container(String),
    #[error("{0:?} is not a quantity")]
    Quantity(String),
}

/// Reads a `fieldRef.fieldPath`.
pub(super) fn field(pod: &Pod, place: &Place, path: &str) -> Result<String, FieldError> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    if let Some((map, key)) = subscript(path) {
        let values = match map {
            "metadata.labels" => &metadata.labels,
            "metadata.annotations" => &metadata.annotations,
            _ => return Err(FieldError::Path(path.to_owned())),
        };
        let value = values.as_ref().and_then(|values| values.get(key));
        return Ok(value.cloned().unwrap_or_default());
    }
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    Ok(match path {
        "metadata.name" => text(metadata.name.as_ref()),
        "metadata.namespace" => text(metadata.namespace.as_ref()),
        "metadata.uid" => text(metadata.uid.as_ref()),
        "metadata.labels" => lines(metadata.labels.as_ref()),
        "metadata.annotations" => lines(metadata.annotations.as_ref()),
        "spec.nodeName" => place.node.clone(),
        "spec.serviceAccountName" => text(spec.and_then(|spec| spec.service_account_name.as_ref())),
        "status.podIP" | "status.podIPs" => place.pod_ip.clone(),
        "status.hostIP" | "status.hostIPs" => place.host_ip.clone(),
        _ => return Err(FieldError::Path(path.to_owned())),
    })
}

/// `metadata.labels['app']` as map and key.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once('[')?;
    let key = rest.strip_suffix(']')?;
    let bare = |quote: char| {
        key.strip_prefix(quote)
            .and_then(|key| key.strip_suffix(quote))
    };
    Some((map, bare('\'').or_else(|| bare('"'))?))
}

/// All entries as the downward API writes them: `key="value"` lines, sorted.
fn lines(values: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = values
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    lines.join("\n")
}

/// Reads a `resourceFieldRef` of `pod`; `own` is the container it is in.
pub(super) fn resource(
    pod: &Pod,
    own: &str,
    capacity: Capacity,
    selector: &ResourceFieldSelector,
) -> Result<String, FieldError> {
    let name = selector
        .container_name
        .as_deref()
        .filter(|name| !name.is_empty())
        .unwrap_or(own);
    let spec = pod.spec.as_ref();
    let mut all = spec.into_iter().flat_map(|spec| {
        spec.containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
    });
    let container = all
        .find(|container| container.name == name)
        .ok_or_else(|| FieldError::Container(name.to_owned()))?;
    let unsupported = || FieldError::Resource(selector.resource.clone());
    let (list, kind) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let set = quantity_of(container, list, kind).ok_or_else(unsupported)?;
    let milli = match (set, list, kind) {
        (Some(quantity), ..) => milli(&quantity.0)?,
        (None, "limits", "cpu") => capacity.milli_cpus,
        (None, "limits", "memory") => capacity.memory_bytes.saturating_mul(1000),
        (None, ..) => 0,
    };
    let divisor = match &selector.divisor {
        Some(Quantity(text)) if !text.is_empty() && text != "0" => self::milli(text)?,
        _ => 1000,
    };
    let rounded_up = milli
        .saturating_add(divisor.saturating_sub(1))
        .checked_div(divisor);
    Ok(rounded_up.unwrap_or(0).to_string())
}

/// `None`: no such field; `Some(None)`: it is not set.
fn quantity_of<'a>(
    container: &'a Container,
    list: &str,
    kind: &str,
) -> Option<Option<&'a Quantity>> {
    if !matches!(kind, "cpu" | "memory" | "ephemeral-storage") && !kind.starts_with("hugepages-") {
        return None;
    }
    let resources = container.resources.as_ref();
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let get = |map: Option<&'a BTreeMap<String, Quantity>>| map.and_then(|map| map.get(kind));
    match list {
        "limits" => Some(get(limits)),
        "requests" => Some(get(requests).or_else(|| get(limits))),
        _ => None,
    }
}

/// A quantity in thousandths, rounded up: whatever the API server takes (decimal and binary suffixes, exponents).
pub(super) fn milli(text: &str) -> Result<i128, FieldError> {
    let wrong = || FieldError::Quantity(text.to_owned());
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at_checked(end).ok_or_else(wrong)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return Err(wrong());
    }
    let factor = nanos_of(suffix).ok_or_else(wrong)?;
    // What is too large for anything is as large as can be.
    let mut units = 0_u128;
    for digit in whole.chars().filter_map(|digit| digit.to_digit(10)) {
        units = units.saturating_mul(10).saturating_add(digit.into());
    }
    let mut nanos = units.saturating_mul(factor);
    let mut place = factor;
    for digit in fraction.chars().filter_map(|digit| digit.to_digit(10)) {
        place /= 10;
        nanos = nanos.saturating_add(place.saturating_mul(digit.into()));
    }
    let size = i128::try_from(nanos.div_ceil(1_000_000)).unwrap_or(i128::MAX);
    Ok(if text.starts_with('-') { -size } else { size })
}

/// How many billionths one of the suffix is.
fn nanos_of(suffix: &str) -> Option<u128> {
    const ONE: u128 = 1_000_000_000;
    Some(match suffix {
        "n" => 1,
        "u" => 1000,
        "m" => 1_000_000,
        "" => ONE,
        "k" => ONE * 1000,
        "M" => ONE * 1000_u128.pow(2),
        "G" => ONE * 1000_u128.pow(3),
        "T" => ONE * 1000_u128.pow(4),
        "P" => ONE * 1000_u128.pow(5),
        "E" => ONE * 1000_u128.pow(6),
        "Ki" => ONE << 10,
        "Mi" => ONE << 20,
        "Gi" => ONE << 30,
        "Ti" => ONE << 40,
        "Pi" => ONE << 50,
        "Ei" => ONE << 60,
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            match u32::try_from(power.checked_add(9)?) {
                Ok(places) if power < 30 => 10_u128.pow(places),
                Err(_) if power > -30 => 0,
                _ => return None,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::{Capacity, Place, field, milli, resource};

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web-1", "labels": {"app": "web", "istio.io/rev": "1-12"}},
            "spec": {"serviceAccountName": "web", "containers": [{"name": "app",
                "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}}}]},
        }))
        .unwrap()
    }

    #[test]
    fn fields_read_as_the_kubelet_reads_them() {
        let place = Place {
            pod_ip: "10.244.0.7".to_owned(),
            ..Place::default()
        };
        for (path, wanted) in [
            ("metadata.name", Some("web-1")),
            ("metadata.labels['istio.io/rev']", Some("1-12")),
            ("metadata.labels[\"app\"]", Some("web")),
            ("metadata.annotations['none']", Some("")),
            (
                "metadata.labels",
                Some("app=\"web\"\nistio.io/rev=\"1-12\""),
            ),
            ("status.podIP", Some("10.244.0.7")),
            ("spec.serviceAccountName", Some("web")),
            ("status.phase", None),
            ("spec.labels['a']", None),
        ] {
            assert_eq!(
                field(&pod(), &place, path).ok().as_deref(),
                wanted,
                "{path}"
            );
        }
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        let capacity = Capacity {
            milli_cpus: 2000,
            memory_bytes: 1 << 30,
        };
        for (name, divisor, wanted) in [
            ("limits.memory", "1Mi", Some("64")),
            ("limits.memory", "", Some("67108864")),
            ("requests.cpu", "", Some("1")),
            ("requests.cpu", "1m", Some("250")),
            ("limits.cpu", "", Some("2")),
            ("requests.memory", "0", Some("67108864")),
            ("limits.love", "", None),
        ] {
            let selector = serde_json::from_value(json!({"resource": name, "divisor": divisor}));
            let got = resource(&pod(), "app", capacity, &selector.unwrap());
            assert_eq!(got.ok().as_deref(), wanted, "{name} / {divisor}");
        }
    }

    #[test]
    fn quantities_have_decimal_and_binary_suffixes() {
        for (text, wanted) in [
            ("1.5Gi", 1_610_612_736_000),
            ("0.1", 100),
            ("2k", 2_000_000),
            ("1e3", 1_000_000),
            ("1E", 1000_i128.pow(7)),
            ("1Ei", 1000 << 60),
            ("1n", 1),
            ("5.", 5000),
            ("-0.5", -500),
            ("9e20", 900 * 1000_i128.pow(7)),
        ] {
            assert_eq!(milli(text), Ok(wanted), "{text}");
        }
        assert!(milli("9e29").unwrap() > milli("1Ei").unwrap());
        for bad in ["", ".", "1x", "1.x", "1.2.3", "--1", "1e99", "e3"] {
            assert!(milli(bad).is_err(), "{bad}");
        }
    }
}
