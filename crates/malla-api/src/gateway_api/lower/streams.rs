//! The rule of a TLSRoute or TCPRoute as destinations of the model.

use malla_model::route::{HeaderOps, WeightedDestination};

use super::super::types::StreamRule;
use super::backends;
use super::rules::{Context, Rules, unsupported};

/// Lowers the rule of a route. Connections to backends that do not exist are refused.
pub(super) fn lower(rules: &[StreamRule], mut cx: Context<'_>) -> Rules {
    let backends = rules.first().map_or(&[][..], |rule| &rule.backend_refs);
    let mut connections: Vec<WeightedDestination> = backends
        .iter()
        .map(|backend| WeightedDestination {
            destination: backends::of(backend, &mut cx),
            weight: backend.weight.unwrap_or(1),
            headers: HeaderOps::default(),
        })
        .collect();
    connections.retain(|to| to.weight > 0);
    Rules {
        connections,
        // Older definitions of the kinds let several in.
        refused: (rules.len() > 1).then(|| unsupported("rules[1]: only one rule is supported")),
        unresolved: cx.unresolved,
        ..Rules::default()
    }
}
