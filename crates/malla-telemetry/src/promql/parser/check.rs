//! Types: what may stand where.

use crate::promql::ast::{Aggregate, Binary, Call, Cardinality, Kind};

pub(super) fn binary(binary: &Binary) -> Result<(), String> {
    let (left, right, op) = (binary.left.kind(), binary.right.kind(), binary.op);
    let scalars = left == Kind::Scalar && right == Kind::Scalar;
    for kind in [left, right] {
        if !matches!(kind, Kind::Scalar | Kind::Vector) {
            return Err(
                "binary expression must contain only scalar and instant vector types".into(),
            );
        }
    }
    if binary.as_bool && !op.is_comparison() {
        return Err("bool modifier can only be used on comparison operators".into());
    }
    if op.is_comparison() && !binary.as_bool && scalars {
        return Err("comparisons between scalars must use BOOL modifier".into());
    }
    let matching = &binary.matching;
    let vectors = left == Kind::Vector && right == Kind::Vector;
    if op.is_set() {
        if !vectors {
            return Err(format!(
                "set operator {:?} not allowed in binary scalar expression",
                op.symbol()
            ));
        }
        if matching.cardinality != Cardinality::OneToOne {
            return Err(format!(
                "no grouping allowed for {:?} operation",
                op.symbol()
            ));
        }
    }
    if matching.explicit && !vectors {
        return Err("vector matching only allowed between instant vectors".into());
    }
    if matching.on
        && let Some(both) = matching
            .labels
            .iter()
            .find(|l| matching.include.contains(l))
    {
        return Err(format!(
            "label {both:?} must not occur in ON and GROUP clause at once"
        ));
    }
    Ok(())
}

pub(super) fn call(call: &Call) -> Result<(), String> {
    let (function, given) = (call.function, call.args.len());
    let most = function.args.len();
    let least = most - function.optional;
    let plural = if most == 1 { "" } else { "s" };
    if given < least {
        let at_least = if least == most { "" } else { "at least " };
        return Err(format!(
            "expected {at_least}{least} argument{plural} in call to {:?}, got {given}",
            function.name
        ));
    }
    if given > most && !function.variadic {
        let at_most = if least == most { "" } else { "at most " };
        return Err(format!(
            "expected {at_most}{most} argument{plural} in call to {:?}, got {given}",
            function.name
        ));
    }
    for (at, arg) in call.args.iter().enumerate() {
        if let Some(kind) = function.arg(at)
            && kind != arg.kind()
        {
            return Err(format!(
                "expected type {kind} in call to function {:?}, got {}",
                function.name,
                arg.kind()
            ));
        }
    }
    Ok(())
}

pub(super) fn aggregate(aggregate: &Aggregate) -> Result<(), String> {
    if let (Some(kind), Some(given)) = (aggregate.op.parameter(), &aggregate.parameter)
        && given.kind() != kind
    {
        return Err(format!(
            "expected type {kind} in aggregation parameter, got {}",
            given.kind()
        ));
    }
    match aggregate.expr.kind() {
        Kind::Vector => Ok(()),
        kind => Err(format!(
            "expected type instant vector in aggregation expression, got {kind}"
        )),
    }
}
