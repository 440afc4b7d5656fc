//! Runtime values: numbers that an operator changes beside the configuration (`layered_runtime`).
//!
//! A resource is parsed with the values of the moment, so a request never looks one up; whoever changes a value has the
//! resources that name it parsed again.
//!
//! Source: Envoy's "Runtime configuration" and `RuntimeLayer`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use malla_xds_proto::json;

use crate::checked::{Cx, Invalid};
use crate::matcher::Fraction;
use crate::pb::{bootstrap as pb, google, types};

/// Structs may nest, but not for ever.
const MAX_DEPTH: u32 = 16;

/// One layer of the runtime; later ones win.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Its name in `/runtime`.
    pub name: String,
    /// Where its values come from.
    pub kind: LayerKind,
}

/// Where a layer's values come from.
#[derive(Debug, Clone, PartialEq)]
pub enum LayerKind {
    /// The bootstrap.
    Static(BTreeMap<String, Value>),
    /// A tree of files, one for each key.
    Disk {
        /// Swapped as a whole.
        symlink_root: PathBuf,
        /// Below the root.
        subdirectory: PathBuf,
        /// The tree is that of `node.cluster`, below the subdirectory.
        append_service_cluster: bool,
    },
    /// `/runtime_modify`.
    Admin,
}

/// One value, as everything it can be read as.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// As it was written.
    pub text: String,
    number: Option<f64>,
    flag: Option<bool>,
    fraction: Option<Fraction>,
}

/// All values of one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Values(BTreeMap<String, Value>);

impl Layer {
    /// The layers of a bootstrap; without any there is one for `/runtime_modify`, as in Envoy.
    pub fn parse_all(wire: Option<pb::LayeredRuntime>, cx: &mut Cx) -> Result<Vec<Self>, Invalid> {
        let pb::LayeredRuntime { layers } = wire.unwrap_or_default();
        if layers.is_empty() {
            return Ok(vec![Self {
                name: String::new(),
                kind: LayerKind::Admin,
            }]);
        }
        cx.field("layered_runtime", |cx| {
            let layers: Vec<Self> = cx.each("layers", layers, Self::parse)?;
            let admins = layers.iter().filter(|layer| layer.kind == LayerKind::Admin);
            if admins.count() > 1 {
                return Err(cx.invalid("layers", "only one admin_layer may be there"));
            }
            Ok(layers)
        })
    }

    fn parse(wire: pb::RuntimeLayer, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::runtime_layer::LayerSpecifier;
        let pb::RuntimeLayer {
            name,
            layer_specifier,
        } = wire;
        if name.is_empty() {
            return Err(cx.invalid("name", "is required"));
        }
        let kind = match cx.required("layer_specifier", layer_specifier)? {
            LayerSpecifier::StaticLayer(tree) => {
                let mut values = BTreeMap::new();
                cx.field("static_layer", |cx| {
                    flatten("", tree, MAX_DEPTH, &mut values, cx)
                })?;
                LayerKind::Static(values)
            }
            LayerSpecifier::DiskLayer(disk) => LayerKind::Disk {
                symlink_root: disk.symlink_root.into(),
                subdirectory: disk.subdirectory.into(),
                append_service_cluster: disk.append_service_cluster,
            },
            LayerSpecifier::AdminLayer(pb::runtime_layer::AdminLayer {}) => LayerKind::Admin,
            LayerSpecifier::RtdsLayer(_) => {
                return Err(cx.invalid("rtds_layer", "not supported by this proxy; use disk_layer"));
            }
        };
        Ok(Self { name, kind })
    }
}

fn flatten(
    prefix: &str,
    tree: google::Struct,
    depth: u32,
    into: &mut BTreeMap<String, Value>,
    cx: &Cx,
) -> Result<(), Invalid> {
    use google::value::Kind;
    let Some(depth) = depth.checked_sub(1) else {
        return Err(cx.invalid("", "nested too deeply"));
    };
    for (name, value) in tree.fields {
        let key = match prefix {
            "" => name,
            prefix => format!("{prefix}.{name}"),
        };
        let text = match value.kind {
            Some(Kind::NumberValue(number)) => number.to_string(),
            Some(Kind::BoolValue(flag)) => flag.to_string(),
            Some(Kind::StringValue(text)) => text,
            Some(Kind::StructValue(fraction)) if is_fraction(&fraction) => {
                json::print(&fraction).to_string()
            }
            Some(Kind::StructValue(inner)) => {
                flatten(&key, inner, depth, into, cx)?;
                continue;
            }
            Some(Kind::ListValue(_) | Kind::NullValue(_)) | None => {
                return Err(cx.invalid(&key, "is no number, flag, text or fraction"));
            }
        };
        into.insert(key, Value::new(text));
    }
    Ok(())
}

fn is_fraction(tree: &google::Struct) -> bool {
    tree.fields.contains_key("numerator") || tree.fields.contains_key("denominator")
}

impl Value {
    /// A value as it is written in a file or a query.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let trimmed = text.trim();
        let number = trimmed
            .parse::<f64>()
            .ok()
            .filter(|number| number.is_finite());
        let flag = match trimmed {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        };
        // Only what looks like one: YAML would read nearly anything as something.
        let fraction = trimmed.contains("numerator").then(|| {
            let wire = json::from_yaml::<types::FractionalPercent>(trimmed).ok()?;
            Cx::check(|cx| Fraction::parse(wire, cx)).ok()
        });
        Self {
            number,
            flag,
            fraction: fraction.flatten().map(|checked| checked.value),
            text,
        }
    }

    /// A whole number of zero or more; a broken one is cut off, as in Envoy.
    fn integer(&self) -> Option<u64> {
        let number = self.number.filter(|number| *number >= 0.0)?;
        // Saturates, which is what is meant.
        Some(number as u64)
    }
}

impl Values {
    /// What layers say together, the first ones first.
    pub fn merged<'a>(layers: impl IntoIterator<Item = &'a BTreeMap<String, Value>>) -> Self {
        let mut all = BTreeMap::new();
        for layer in layers {
            all.extend(
                layer
                    .iter()
                    .map(|(key, value)| (key.clone(), value.clone())),
            );
        }
        Self(all)
    }

    /// The values that bootstrap layers have by themselves.
    pub fn of_static(layers: &[Layer]) -> Self {
        Self::merged(layers.iter().filter_map(|layer| match &layer.kind {
            LayerKind::Static(values) => Some(values),
            LayerKind::Disk { .. } | LayerKind::Admin => None,
        }))
    }

    /// One value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0.iter()
    }

    /// A number of zero or more.
    pub fn integer(&self, key: &str) -> Option<u64> {
        self.get(key)?.integer()
    }
}

impl Cx {
    /// The values in force; a resource parsed with others is another one.
    pub(crate) fn with_runtime<T>(
        runtime: &Arc<Values>,
        parse: impl FnOnce(&mut Self) -> Result<T, Invalid>,
    ) -> Result<crate::Checked<T>, Invalid> {
        Self::check(|cx| {
            cx.runtime = Arc::clone(runtime);
            parse(cx)
        })
    }

    fn runtime_value(&mut self, key: &str) -> Option<Value> {
        if key.is_empty() {
            return None;
        }
        let value = self.runtime.get(key).cloned()?;
        self.note_runtime(key, &value.text);
        Some(value)
    }

    /// A fraction, or a percentage as a number.
    pub(crate) fn runtime_fraction(&mut self, key: &str, default: Fraction) -> Fraction {
        let Some(value) = self.runtime_value(key) else {
            return default;
        };
        let percent = value.integer().map(Fraction::percent);
        value.fraction.or(percent).unwrap_or(default)
    }

    /// A number of zero or more.
    pub(crate) fn runtime_integer(&mut self, key: &str, default: u64) -> u64 {
        let value = self.runtime_value(key);
        value.and_then(|value| value.integer()).unwrap_or(default)
    }

    /// A flag.
    pub fn runtime_flag(&mut self, key: &str, default: bool) -> bool {
        let value = self.runtime_value(key);
        value.and_then(|value| value.flag).unwrap_or(default)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Layer, Values};
    use crate::checked::Cx;
    use crate::matcher::Fraction;
    use crate::pb::bootstrap as pb;
    use malla_xds_proto::json;

    fn layers(yaml: &str) -> Result<Vec<Layer>, String> {
        let wire: pb::LayeredRuntime = json::from_yaml(yaml).unwrap();
        Cx::check(|cx| Layer::parse_all(Some(wire), cx))
            .map(|checked| checked.value)
            .map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn later_layers_win_and_values_are_read_as_what_is_asked_for() {
        let layers = layers(
            "layers: [ { name: a, static_layer: { x: { y: 1, z: 7.9, on: true }, half: { numerator: 1, denominator: TEN_THOUSAND }, 'a.b': text } }, { name: b, static_layer: { x: { y: '5' } } } ]",
        )
        .unwrap();
        let values = Arc::new(Values::of_static(&layers));
        let read = Cx::with_runtime(&values, |cx| {
            assert_eq!(cx.runtime_integer("x.y", 0), 5);
            assert_eq!(cx.runtime_integer("x.z", 0), 7);
            assert!(cx.runtime_flag("x.on", false));
            assert_eq!(cx.runtime_fraction("half", Fraction::NEVER).ppm(), 100);
            assert_eq!(cx.runtime_fraction("x.y", Fraction::NEVER).ppm(), 50_000);
            assert_eq!(
                cx.runtime_fraction("a.b", Fraction::ALWAYS),
                Fraction::ALWAYS
            );
            assert_eq!(cx.runtime_integer("missing", 3), 3);
            Ok(())
        });
        read.unwrap();
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let check = |yaml: &str, want: &str| {
            let got = layers(yaml).unwrap_err();
            assert!(got.contains(want), "{yaml}\n{got}");
        };
        check(
            "layers: [ { name: a, rtds_layer: { name: x } } ]",
            "layered_runtime.layers[0].rtds_layer: not supported",
        );
        check(
            "layers: [ { name: a, static_layer: { x: [ 1 ] } } ]",
            "static_layer.x: is no number",
        );
        check(
            "layers: [ { name: a, admin_layer: {} }, { name: b, admin_layer: {} } ]",
            "only one admin_layer",
        );
        let deep = "{ a: ".repeat(20) + "1" + &" }".repeat(20);
        check(
            &format!("layers: [ {{ name: a, static_layer: {deep} }} ]"),
            "nested too deeply",
        );
    }
}
