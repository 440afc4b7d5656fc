//! Whatever stands in an object, nothing panics; and what passes validation lowers.

mod support;

use malla_api::{Kind, World, analyze, lower, validate};
use malla_model::MeshSettings;
use proptest::prelude::{ProptestConfig, any, prop_assert};
use proptest::proptest;
use serde_json::{Map, Value, json};
use support::metadata;

/// Bytes that decide what is written; when they are used up, nothing more is.
struct Entropy(std::vec::IntoIter<u8>);

impl Entropy {
    fn below(&mut self, most: usize) -> usize {
        usize::from(self.0.next().unwrap_or(0)) % most.max(1)
    }

    fn pick<T: Clone>(&mut self, list: &[T]) -> Option<T> {
        let at = self.below(list.len());
        list.get(at).cloned()
    }

    fn is_used_up(&self) -> bool {
        self.0.len() == 0
    }
}

/// Texts that mean something somewhere, and ones that mean nothing anywhere.
const TEXTS: [&str; 32] = [
    "",
    "*",
    "*.*",
    "a",
    "a.b.c",
    "*.com",
    "10.0.0.1",
    "10.0.0.0/8",
    "::1",
    "7s",
    "7000ms",
    "0s",
    "-1s",
    "1h",
    "STRICT",
    "http",
    "80",
    "0",
    "99999",
    "(",
    "*x",
    "x*",
    "{*}",
    "a/b",
    "./a",
    "~",
    ".",
    "mesh",
    "unix:///a",
    "%",
    "request.headers[x]",
    "\u{1F980}",
];

/// Something that mostly fits the schema, and sometimes does not.
fn write(schema: &Value, entropy: &mut Entropy, depth: usize) -> Value {
    let text = |entropy: &mut Entropy| json!(entropy.pick(&TEXTS).unwrap_or_default());
    if depth == 0 || entropy.is_used_up() {
        return Value::Null;
    }
    if entropy.below(24) == 0 {
        let odd = [
            json!(null),
            json!(-1),
            json!(1.5),
            json!("odd"),
            json!([]),
            json!({}),
            json!(true),
            json!(u64::MAX),
        ];
        return entropy.pick(&odd).unwrap_or_default();
    }
    match schema["type"].as_str().unwrap_or_default() {
        "object" => {
            let mut fields = Map::new();
            let properties: Vec<(String, Value)> = schema["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, inner)| (name.clone(), inner.clone()))
                .collect();
            for _ in 0..entropy.below(5) {
                if let Some((name, inner)) = entropy.pick(&properties) {
                    fields.insert(name, write(&inner, entropy, depth - 1));
                } else if schema["additionalProperties"].is_object() {
                    let name = entropy.pick(&TEXTS).unwrap_or_default().to_owned();
                    fields.insert(
                        name,
                        write(&schema["additionalProperties"], entropy, depth - 1),
                    );
                }
            }
            for name in schema["required"].as_array().into_iter().flatten() {
                let name = name.as_str().unwrap_or_default();
                let inner = write(&schema["properties"][name], entropy, depth - 1);
                fields.entry(name).or_insert(inner);
            }
            Value::Object(fields)
        }
        "array" => (0..entropy.below(4))
            .map(|_| write(&schema["items"], entropy, depth - 1))
            .collect(),
        "string" => {
            let allowed = schema["enum"].as_array().cloned().unwrap_or_default();
            entropy.pick(&allowed).unwrap_or_else(|| text(entropy))
        }
        "integer" => json!(
            entropy
                .pick(&[0_i64, 1, 80, 100, 443, -1, 65535, 65536, 4_294_967_295])
                .unwrap_or_default()
        ),
        "number" => json!(
            entropy
                .pick(&[0.0, 50.0, 100.0, -1.0, 0.00001, 1e300])
                .unwrap_or_default()
        ),
        "boolean" => json!(entropy.below(2) == 0),
        _ => text(entropy),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_object_panics(kind in 0..Kind::ALL.len(), bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let kind = Kind::ALL[kind];
        let spec = write(kind.spec_schema(), &mut Entropy(bytes.into_iter()), 12);
        let object = json!({
            "apiVersion": format!("{}/{}", kind.group(), kind.storage_version()),
            "kind": kind.name(),
            "metadata": {"name": "x", "namespace": "y"},
            "spec": spec,
        });
        let report = validate(kind, &object);
        let lowered = lower(kind, &metadata("y", "x"), &spec, &MeshSettings::default());
        if kind.is_translated() && report.is_valid() && let Err(refused) = &lowered {
            let by_design = ["spec.targetRefs", "spec.resolution"].contains(&refused.path.as_str());
            prop_assert!(by_design, "valid but refused: {refused}\n{spec:#}");
        }
        let mut world = World::default();
        world.add(object.clone());
        world.add(object);
        let _ = analyze(&world);
    }
}
