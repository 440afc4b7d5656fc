//! Subset load balancing: endpoints grouped by their `envoy.lb` metadata, in Envoy's old and new spelling.

use crate::checked::{Cx, Invalid};
use crate::metadata::{Object, Value, parse_struct};
use crate::pb::cluster::cluster as old;
use crate::pb::cluster::cluster::lb_subset_config as old_config;
use crate::pb::extensions::load_balancing_policies::subset::v3 as new;

/// The namespace of endpoint and route metadata that subsets are about.
pub const NAMESPACE: &str = "envoy.lb";
/// The key of a route's metadata that lists alternatives, with [`Subsets::fallback_list`].
pub const FALLBACK_LIST: &str = "fallback_list";

/// `LbSubsetConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct Subsets {
    /// Where requests go that no subset takes.
    pub fallback: Fallback,
    /// Which sets of keys make subsets.
    pub selectors: Vec<Selector>,
    /// Weights of localities count inside subsets.
    pub locality_weights: bool,
    /// They shrink with the share of a locality's endpoints that is in the subset.
    pub scale_locality_weights: bool,
    /// When the fallback has nobody, any endpoint.
    pub panic_mode_any: bool,
    /// A list in an endpoint's metadata stands for each of its values.
    pub list_as_any: bool,
    /// Routes may list alternatives under [`FALLBACK_LIST`].
    pub fallback_list: bool,
}

/// Where requests go that no subset takes.
#[derive(Debug, Clone, PartialEq)]
pub enum Fallback {
    /// Nowhere.
    None,
    /// To any endpoint.
    Any,
    /// To endpoints with this metadata.
    Default(Object),
}

/// One set of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// In order of their names.
    pub keys: Vec<String>,
    /// A subset is one endpoint.
    pub single: bool,
    /// What happens if the subset is not there; `None` leaves it to [`Subsets::fallback`].
    pub fallback: Option<SelectorFallback>,
}

/// What happens with a request for exactly the keys of a selector whose subset is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SelectorFallback {
    /// It fails.
    None,
    /// It goes to any endpoint.
    Any,
    /// It goes to the default subset.
    Default,
    /// It is looked up again by these keys only.
    Keys(Vec<String>),
}

impl Subsets {
    pub(super) fn parse(wire: old::LbSubsetConfig, cx: &mut Cx) -> Result<Option<Self>, Invalid> {
        let old::LbSubsetConfig {
            fallback_policy,
            default_subset,
            subset_selectors,
            locality_weight_aware,
            scale_locality_weight,
            panic_mode_any,
            list_as_any,
            metadata_fallback_policy,
        } = wire;
        // The new message is the old one with a policy inside.
        let selectors = subset_selectors.into_iter().map(|selector| {
            let old_config::LbSubsetSelector {
                keys,
                single_host_per_subset,
                fallback_policy,
                fallback_keys_subset,
            } = selector;
            new::subset::LbSubsetSelector {
                keys,
                single_host_per_subset,
                fallback_policy,
                fallback_keys_subset,
            }
        });
        Self::parse_new(
            new::Subset {
                fallback_policy,
                default_subset,
                subset_selectors: selectors.collect(),
                allow_redundant_keys: false,
                locality_weight_aware,
                scale_locality_weight,
                panic_mode_any,
                list_as_any,
                metadata_fallback_policy,
                subset_lb_policy: None,
            },
            cx,
        )
    }

    /// `None` without selectors, as in Envoy. The policy inside is the caller's business.
    pub(super) fn parse_new(wire: new::Subset, cx: &mut Cx) -> Result<Option<Self>, Invalid> {
        use new::subset::{LbSubsetFallbackPolicy, LbSubsetMetadataFallbackPolicy};
        let new::Subset {
            fallback_policy,
            default_subset,
            subset_selectors,
            // A request with more keys than a selector has is looked up by those it has.
            allow_redundant_keys,
            locality_weight_aware,
            scale_locality_weight,
            panic_mode_any,
            list_as_any,
            metadata_fallback_policy,
            subset_lb_policy: _,
        } = wire;
        cx.unset("allow_redundant_keys", &allow_redundant_keys)?;
        if subset_selectors.is_empty() {
            return Ok(None);
        }
        let fallback = match cx.enumeration("fallback_policy", fallback_policy)? {
            LbSubsetFallbackPolicy::NoFallback => Fallback::None,
            LbSubsetFallbackPolicy::AnyEndpoint => Fallback::Any,
            LbSubsetFallbackPolicy::DefaultSubset => {
                Fallback::Default(parse_struct(default_subset.unwrap_or_default()))
            }
        };
        let listed: LbSubsetMetadataFallbackPolicy =
            cx.enumeration("metadata_fallback_policy", metadata_fallback_policy)?;
        Ok(Some(Self {
            fallback,
            selectors: cx.each("subset_selectors", subset_selectors, Selector::parse)?,
            locality_weights: locality_weight_aware,
            scale_locality_weights: scale_locality_weight,
            panic_mode_any,
            list_as_any,
            fallback_list: listed == LbSubsetMetadataFallbackPolicy::FallbackList,
        }))
    }

    /// The selector of exactly these keys.
    pub fn selector(&self, criteria: &Object) -> Option<&Selector> {
        self.selectors
            .iter()
            .find(|selector| selector.keys.iter().eq(criteria.keys()))
    }

    /// Whether an endpoint with this metadata is in the subset of `criteria`.
    pub fn contains(&self, criteria: &Object, endpoint: Option<&Object>) -> bool {
        criteria.iter().all(|(key, want)| {
            let have = endpoint.and_then(|endpoint| endpoint.get(key));
            match have {
                Some(Value::List(items)) if self.list_as_any => items.contains(want),
                have => have == Some(want),
            }
        })
    }
}

impl Selector {
    fn parse(wire: new::subset::LbSubsetSelector, cx: &mut Cx) -> Result<Self, Invalid> {
        use new::subset::lb_subset_selector::LbSubsetSelectorFallbackPolicy as Wire;
        let new::subset::LbSubsetSelector {
            mut keys,
            single_host_per_subset: single,
            fallback_policy,
            mut fallback_keys_subset,
        } = wire;
        keys.sort();
        keys.dedup();
        fallback_keys_subset.sort();
        fallback_keys_subset.dedup();
        if single && keys.len() != 1 {
            return Err(cx.invalid("single_host_per_subset", "takes exactly one key"));
        }
        let fallback = match cx.enumeration("fallback_policy", fallback_policy)? {
            Wire::NotDefined => None,
            Wire::NoFallback => Some(SelectorFallback::None),
            Wire::AnyEndpoint => Some(SelectorFallback::Any),
            Wire::DefaultSubset => Some(SelectorFallback::Default),
            Wire::KeysSubset => {
                let within = fallback_keys_subset.iter().all(|key| keys.contains(key));
                if fallback_keys_subset.is_empty()
                    || !within
                    || fallback_keys_subset.len() == keys.len()
                {
                    return Err(
                        cx.invalid("fallback_keys_subset", "must be some but not all of `keys`")
                    );
                }
                Some(SelectorFallback::Keys(fallback_keys_subset))
            }
        };
        Ok(Self {
            keys,
            single,
            fallback,
        })
    }
}

#[cfg(test)]
mod tests {
    use malla_xds_proto::json::from_yaml;

    use super::{Fallback, SelectorFallback};
    use crate::cluster::Cluster;
    use crate::metadata::{Object, Value};

    fn parse(config: &str) -> Result<Cluster, String> {
        let wire =
            from_yaml(&format!("{{ name: c, {config} }}")).map_err(|error| error.to_string())?;
        Cluster::from_proto(wire)
            .map(|checked| checked.value)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn both_spellings_mean_the_same() {
        let body = "fallback_policy: DEFAULT_SUBSET, default_subset: { stage: prod }, list_as_any: true, \
            subset_selectors: [ { keys: [version, stage], fallback_policy: KEYS_SUBSET, fallback_keys_subset: [stage] } ]";
        let old = parse(&format!("lb_subset_config: {{ {body} }}"))
            .unwrap()
            .balance
            .subsets
            .unwrap();
        let new = parse(&format!(
            "load_balancing_policy: {{ policies: [ {{ typed_extension_config: {{ name: s, typed_config: {{ \
             '@type': type.googleapis.com/envoy.extensions.load_balancing_policies.subset.v3.Subset, {body}, \
             subset_lb_policy: {{ policies: [ {{ typed_extension_config: {{ name: r, typed_config: {{ \
             '@type': type.googleapis.com/envoy.extensions.load_balancing_policies.random.v3.Random }} }} }} ] }} }} }} }} ] }}"
        ))
        .unwrap();
        assert_eq!(new.balance.policy, crate::cluster::BalancePolicy::Random);
        assert_eq!(new.balance.subsets.as_ref(), Some(&old));
        assert_eq!(old.selectors[0].keys, ["stage", "version"]);
        assert_eq!(
            old.selectors[0].fallback,
            Some(SelectorFallback::Keys(vec!["stage".into()]))
        );
        assert!(matches!(old.fallback, Fallback::Default(_)));
        let criteria = Object::from([("stage".to_owned(), Value::String("prod".into()))]);
        let list = |items: &[&str]| {
            let items = items
                .iter()
                .map(|item| Value::String((*item).into()))
                .collect();
            Object::from([("stage".to_owned(), Value::List(items))])
        };
        assert!(old.contains(&criteria, Some(&list(&["dev", "prod"]))));
        assert!(!old.contains(&criteria, Some(&list(&["dev"]))));
        assert!(!old.contains(&criteria, None));
    }

    #[test]
    fn keys_must_be_a_true_subset() {
        let error = parse("lb_subset_config: { subset_selectors: [ { keys: [a], fallback_policy: KEYS_SUBSET, fallback_keys_subset: [a] } ] }").unwrap_err();
        assert!(
            error.starts_with("lb_subset_config.subset_selectors[0].fallback_keys_subset"),
            "{error}"
        );
    }
}
