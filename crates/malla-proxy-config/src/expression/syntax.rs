//! Syntax trees of CEL (`google.api.expr.v1alpha1.Expr`) as the text they were parsed from, or one that means the same.
//!
//! Invariant: every operand is in parentheses or cannot be taken apart, so the text parses to the same tree.

use crate::pb::expr::{Constant, Expr, constant, expr};

/// A tree deeper than this is nobody's.
const MAX_DEPTH: usize = 48;

/// Operators between two operands, by the names that trees have for them.
const BINARY: [(&str, &str); 14] = [
    ("_&&_", "&&"),
    ("_||_", "||"),
    ("_==_", "=="),
    ("_!=_", "!="),
    ("_<_", "<"),
    ("_<=_", "<="),
    ("_>_", ">"),
    ("_>=_", ">="),
    ("_+_", "+"),
    ("_-_", "-"),
    ("_*_", "*"),
    ("_/_", "/"),
    ("_%_", "%"),
    ("@in", "in"),
];

/// Writes a tree; the error says what cannot be written.
///
/// # Errors
/// For comprehensions (macros that go through collections), messages, and trees without a meaning.
pub(crate) fn written(tree: &Expr) -> Result<String, String> {
    let mut out = String::new();
    write(tree, MAX_DEPTH, &mut out)?;
    Ok(out)
}

fn write(tree: &Expr, depth: usize, out: &mut String) -> Result<(), String> {
    use expr::ExprKind;
    let depth = depth.checked_sub(1).ok_or("nested too deeply")?;
    match &tree.expr_kind {
        None => Err("an expression says nothing".to_owned()),
        Some(ExprKind::ConstExpr(literal)) => constant(literal, out),
        Some(ExprKind::IdentExpr(name)) => identifier(&name.name, out),
        Some(ExprKind::SelectExpr(select)) => {
            let operand = select.operand.as_deref().ok_or("a field of nothing")?;
            out.push_str(if select.test_only { "has(" } else { "" });
            part(operand, depth, out)?;
            out.push('.');
            identifier(&select.field, out)?;
            out.push_str(if select.test_only { ")" } else { "" });
            Ok(())
        }
        Some(ExprKind::CallExpr(call)) => called(call, depth, out),
        Some(ExprKind::ListExpr(list)) => {
            out.push('[');
            separated(&list.elements, depth, out)?;
            out.push(']');
            Ok(())
        }
        Some(ExprKind::StructExpr(made)) => map(made, depth, out),
        Some(ExprKind::ComprehensionExpr(_)) => {
            Err("comprehensions are not supported by this proxy".to_owned())
        }
    }
}

/// An operand: in parentheses, unless it is a name, a literal or a call.
fn part(tree: &Expr, depth: usize, out: &mut String) -> Result<(), String> {
    out.push('(');
    write(tree, depth, out)?;
    out.push(')');
    Ok(())
}

fn separated(trees: &[Expr], depth: usize, out: &mut String) -> Result<(), String> {
    for (at, tree) in trees.iter().enumerate() {
        out.push_str(if at > 0 { ", " } else { "" });
        write(tree, depth, out)?;
    }
    Ok(())
}

fn called(call: &expr::Call, depth: usize, out: &mut String) -> Result<(), String> {
    let function = match call.function.as_str() {
        "_in_" | "in" => "@in",
        other => other,
    };
    let operator = BINARY.iter().find(|(name, _)| *name == function);
    match (operator, function, &call.target, &call.args[..]) {
        (Some((_, sign)), _, None, [left, right]) => {
            part(left, depth, out)?;
            out.push_str(&format!(" {sign} "));
            part(right, depth, out)
        }
        (None, "!_" | "-_", None, [operand]) => {
            out.push_str(function.trim_end_matches('_'));
            part(operand, depth, out)
        }
        (None, "_[_]", None, [of, key]) => {
            part(of, depth, out)?;
            out.push('[');
            write(key, depth, out)?;
            out.push(']');
            Ok(())
        }
        (None, "_?_:_", None, [condition, one, other]) => {
            part(condition, depth, out)?;
            out.push_str(" ? ");
            part(one, depth, out)?;
            out.push_str(" : ");
            part(other, depth, out)
        }
        (None, _, target, args) => {
            if let Some(target) = target {
                part(target, depth, out)?;
                out.push('.');
            }
            identifier(function, out)?;
            out.push('(');
            separated(args, depth, out)?;
            out.push(')');
            Ok(())
        }
        _ => Err(format!("operator {function} has the wrong operands")),
    }
}

fn map(made: &expr::CreateStruct, depth: usize, out: &mut String) -> Result<(), String> {
    use expr::create_struct::entry::KeyKind;
    if !made.message_name.is_empty() {
        return Err(format!(
            "messages such as {} are not supported by this proxy",
            made.message_name
        ));
    }
    out.push('{');
    for (at, entry) in made.entries.iter().enumerate() {
        out.push_str(if at > 0 { ", " } else { "" });
        match &entry.key_kind {
            Some(KeyKind::MapKey(key)) => write(key, depth, out)?,
            Some(KeyKind::FieldKey(_)) | None => return Err("a map has no key".to_owned()),
        }
        out.push_str(": ");
        write(
            entry.value.as_ref().ok_or("a map has no value")?,
            depth,
            out,
        )?;
    }
    out.push('}');
    Ok(())
}

fn identifier(name: &str, out: &mut String) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
    let starts = name
        .bytes()
        .next()
        .is_some_and(|first| !first.is_ascii_digit());
    if !starts || !name.bytes().all(plain) {
        return Err(format!("`{name}` is no name"));
    }
    out.push_str(name);
    Ok(())
}

fn constant(literal: &Constant, out: &mut String) -> Result<(), String> {
    use constant::ConstantKind;
    let text = match &literal.constant_kind {
        None => return Err("a constant says nothing".to_owned()),
        Some(ConstantKind::NullValue(_)) => "null".to_owned(),
        Some(ConstantKind::BoolValue(value)) => value.to_string(),
        Some(ConstantKind::Int64Value(value)) => value.to_string(),
        Some(ConstantKind::Uint64Value(value)) => format!("{value}u"),
        Some(ConstantKind::DoubleValue(value)) if value.is_finite() => format!("{value:?}"),
        Some(ConstantKind::StringValue(value)) => quoted(value),
        Some(ConstantKind::BytesValue(value)) => {
            let bytes = value.iter().map(|byte| format!("\\x{byte:02x}"));
            format!("b'{}'", bytes.collect::<String>())
        }
        Some(_) => return Err("a constant is of a kind this proxy does not know".to_owned()),
    };
    out.push_str(&text);
    Ok(())
}

fn quoted(text: &str) -> String {
    let mut out = String::from("'");
    for letter in text.chars() {
        match letter {
            '\'' | '\\' => out.extend(['\\', letter]),
            letter if letter.is_control() => out.push_str(&format!("\\U{:08x}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
    out.push('\'');
    out
}
