//! A parsed CEL expression that has been checked to be safe to run.
//!
//! The `cel` crate only parses; it finds undeclared names while evaluating, panics on message construction, and has no cost limit.
//! All three are decided here, once, when the CustomResourceDefinition is created.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use kube_cel::cel::common::ast::{EntryExpr, Expr, IdedExpr};
use kube_cel::cel::{Context, Program, Value};

/// Longest expression, in bytes.
const MAX_SOURCE_BYTES: usize = 8 * 1024;
/// Deepest nesting of brackets before parsing and of the syntax tree after.
const MAX_NESTING: usize = 60;
/// Most operators, selections and brackets of one expression.
const MAX_OPERATORS: usize = 1000;

/// Functions of the CEL standard library and Kubernetes' extensions, with their namespaces.
pub(super) const FUNCTIONS: &[&str] = &[
    "add",
    "all",
    "asApproximateFloat",
    "asInteger",
    "base64.decode",
    "base64.encode",
    "bool",
    "bytes",
    "charAt",
    "cidr",
    "compareTo",
    "contains",
    "containsCIDR",
    "containsIP",
    "distinct",
    "double",
    "duration",
    "dyn",
    "endsWith",
    "exists",
    "exists_one",
    "family",
    "filter",
    "find",
    "findAll",
    "first",
    "flatten",
    "format",
    "format.byte",
    "format.date",
    "format.datetime",
    "format.dns1035Label",
    "format.dns1035LabelPrefix",
    "format.dns1123Label",
    "format.dns1123LabelPrefix",
    "format.dns1123Subdomain",
    "format.dns1123SubdomainPrefix",
    "format.labelValue",
    "format.named",
    "format.qualifiedName",
    "format.uri",
    "format.uuid",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getEscapedPath",
    "getFullYear",
    "getHost",
    "getHostname",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getPort",
    "getQuery",
    "getScheme",
    "getSeconds",
    "has",
    "hasValue",
    "indexOf",
    "int",
    "ip",
    "ip.isCanonical",
    "isCIDR",
    "isGlobalUnicast",
    "isGreaterThan",
    "isIP",
    "isInteger",
    "isLessThan",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isLoopback",
    "isQuantity",
    "isSemver",
    "isSorted",
    "isURL",
    "isUnspecified",
    "join",
    "jsonpatch.escapeKey",
    "last",
    "lastIndexOf",
    "lists.range",
    "lowerAscii",
    "major",
    "map",
    "masked",
    "matches",
    "math.abs",
    "math.bitAnd",
    "math.bitNot",
    "math.bitOr",
    "math.bitShiftLeft",
    "math.bitShiftRight",
    "math.bitXor",
    "math.ceil",
    "math.floor",
    "math.greatest",
    "math.isFinite",
    "math.isInf",
    "math.isNaN",
    "math.least",
    "math.round",
    "math.sign",
    "math.sqrt",
    "math.trunc",
    "max",
    "min",
    "minor",
    "optional.none",
    "optional.of",
    "optional.ofNonZeroValue",
    "or",
    "orValue",
    "patch",
    "prefixLength",
    "quantity",
    "replace",
    "reverse",
    "semver",
    "sets.contains",
    "sets.equivalent",
    "sets.intersects",
    "sign",
    "size",
    "slice",
    "sort",
    "split",
    "startsWith",
    "string",
    "strings.quote",
    "sub",
    "substring",
    "sum",
    "timestamp",
    "trim",
    "type",
    "uint",
    "upperAscii",
    "url",
    "validate",
    "value",
];

/// Of those, the ones the parser expands.
#[cfg(test)]
pub(super) const MACROS: &[&str] = &["all", "exists", "exists_one", "filter", "has", "map"];

/// Type names that may stand alone, as in `type(x) == string`.
pub(super) const TYPES: &[&str] = &[
    "bool",
    "bytes",
    "double",
    "duration",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "timestamp",
    "type",
    "uint",
];

/// A checked program.
pub(crate) struct Checked {
    pub(super) source: String,
    pub(super) uses_old_self: bool,
    program: Program,
    nodes: u64,
    loops: u32,
}

impl fmt::Debug for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Checked").field(&self.source).finish()
    }
}

impl Checked {
    /// Parses and checks an expression over `self` and `oldSelf`.
    pub(super) fn compile(source: &str) -> Result<Self, String> {
        Self::compile_over(source, &["self", "oldSelf"])
    }

    /// Parses and checks an expression over these variables.
    pub(crate) fn compile_over(source: &str, names: &[&str]) -> Result<Self, String> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(format!(
                "expression is longer than {MAX_SOURCE_BYTES} bytes"
            ));
        }
        check_nesting(source)?;
        let program = catch_unwind(|| Program::compile(source))
            .map_err(|_| "the expression cannot be parsed".to_owned())?
            .map_err(|error| error.to_string())?;
        let mut scope = Scope {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            uses_old_self: false,
            nodes: 0,
            loops: 0,
        };
        scope.check(program.expression(), 0, 0)?;
        let Scope {
            uses_old_self,
            nodes,
            loops,
            ..
        } = scope;
        Ok(Self {
            source: source.to_owned(),
            uses_old_self,
            program,
            nodes,
            loops,
        })
    }

    /// An upper bound of the steps on a value whose longest list, map or string has this length.
    pub(crate) fn steps(&self, longest: u64) -> u64 {
        self.nodes
            .saturating_mul(longest.max(1).saturating_pow(self.loops))
    }

    /// Evaluates; a panic of the interpreter is an error like any other.
    pub(crate) fn execute(&self, scope: &Context<'_>) -> Result<Value, String> {
        match catch_unwind(AssertUnwindSafe(|| self.program.execute(scope))) {
            Ok(result) => result.map_err(|error| cut(&error.to_string())),
            Err(_) => Err("the expression cannot be evaluated".to_owned()),
        }
    }
}

/// Error texts may print whole objects.
fn cut(text: &str) -> String {
    const MAX: usize = 300;
    match text.char_indices().nth(MAX) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// Refuses expressions the recursive parser could drown in: both brackets and chains of operators nest.
fn check_nesting(source: &str) -> Result<(), String> {
    let (mut depth, mut operators) = (0_usize, 0_usize);
    for symbol in source.chars() {
        match symbol {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        operators += usize::from("([{+-*/%.?:!<>".contains(symbol));
        if depth > MAX_NESTING {
            return Err(format!("brackets are nested deeper than {MAX_NESTING}"));
        }
    }
    if operators > MAX_OPERATORS {
        return Err(format!("more than {MAX_OPERATORS} operators and brackets"));
    }
    Ok(())
}

struct Scope {
    names: Vec<String>,
    uses_old_self: bool,
    nodes: u64,
    loops: u32,
}

impl Scope {
    fn check(&mut self, expression: &IdedExpr, depth: usize, loops: u32) -> Result<(), String> {
        self.nodes += 1;
        self.loops = self.loops.max(loops);
        if depth > MAX_NESTING * 4 {
            return Err(format!(
                "the expression is nested deeper than {}",
                MAX_NESTING * 4
            ));
        }
        let depth = depth + 1;
        match &expression.expr {
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.check_name(name),
            Expr::Select(select) => self.check(&select.operand, depth, loops),
            Expr::List(list) => list
                .elements
                .iter()
                .try_for_each(|element| self.check(element, depth, loops)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.check(&entry.key, depth, loops)?;
                    self.check(&entry.value, depth, loops)
                }
                EntryExpr::StructField(_) => {
                    Err("messages cannot be built in validation rules".to_owned())
                }
            }),
            Expr::Call(call) => {
                let namespace = call.target.as_ref().and_then(|target| match &target.expr {
                    Expr::Ident(name) => Some(format!("{name}.{}", call.func_name)),
                    _ => None,
                });
                let namespaced = namespace.is_some_and(|name| FUNCTIONS.contains(&name.as_str()));
                if !namespaced {
                    self.check_function(&call.func_name)?;
                    if let Some(target) = &call.target {
                        self.check(target, depth, loops)?;
                    }
                }
                call.args
                    .iter()
                    .try_for_each(|argument| self.check(argument, depth, loops))
            }
            Expr::Comprehension(comprehension) => {
                self.check(&comprehension.iter_range, depth, loops)?;
                self.check(&comprehension.accu_init, depth, loops)?;
                let known = self.names.len();
                self.names.push(comprehension.accu_var.clone());
                self.names.push(comprehension.iter_var.clone());
                self.names.extend(comprehension.iter_var2.clone());
                for part in [
                    &comprehension.loop_cond,
                    &comprehension.loop_step,
                    &comprehension.result,
                ] {
                    self.check(part, depth, loops + 1)?;
                }
                self.names.truncate(known);
                Ok(())
            }
            Expr::Struct(_) | Expr::Unspecified => {
                Err("messages cannot be built in validation rules".to_owned())
            }
        }
    }

    fn check_name(&mut self, name: &str) -> Result<(), String> {
        self.uses_old_self |= name == "oldSelf";
        if name.starts_with('@')
            || TYPES.contains(&name)
            || self.names.iter().any(|known| known == name)
        {
            return Ok(());
        }
        Err(format!("undeclared reference to '{name}'"))
    }

    fn check_function(&self, name: &str) -> Result<(), String> {
        let operator = name.contains(['_', '@', '!', '-'])
            && !name.starts_with(|first: char| first.is_ascii_alphabetic());
        if operator || FUNCTIONS.contains(&name) {
            return Ok(());
        }
        Err(format!("undeclared reference to '{name}'"))
    }
}
