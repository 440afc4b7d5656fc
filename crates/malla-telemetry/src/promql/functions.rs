//! The functions there are: names and types. What they do is in `eval`.

use crate::promql::ast::Kind::{self, Matrix, Scalar, Text, Vector};

/// A function's type.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: &'static str,
    pub args: &'static [Kind],
    /// How many of `args` may be left out at the end.
    pub optional: usize,
    /// Whether the last argument may be repeated.
    pub variadic: bool,
    pub returns: Kind,
}

const fn function(name: &'static str, args: &'static [Kind], returns: Kind) -> Function {
    Function {
        name,
        args,
        optional: 0,
        variadic: false,
        returns,
    }
}

const fn optional(name: &'static str, args: &'static [Kind], optional: usize) -> Function {
    Function {
        name,
        args,
        optional,
        variadic: false,
        returns: Vector,
    }
}

const VECTOR: &[Kind] = &[Vector];
const MATRIX: &[Kind] = &[Matrix];

static FUNCTIONS: &[Function] = &[
    function("abs", VECTOR, Vector),
    function("absent", VECTOR, Vector),
    function("absent_over_time", MATRIX, Vector),
    function("acos", VECTOR, Vector),
    function("acosh", VECTOR, Vector),
    function("asin", VECTOR, Vector),
    function("asinh", VECTOR, Vector),
    function("atan", VECTOR, Vector),
    function("atanh", VECTOR, Vector),
    function("avg_over_time", MATRIX, Vector),
    function("ceil", VECTOR, Vector),
    function("changes", MATRIX, Vector),
    function("clamp", &[Vector, Scalar, Scalar], Vector),
    function("clamp_max", &[Vector, Scalar], Vector),
    function("clamp_min", &[Vector, Scalar], Vector),
    function("cos", VECTOR, Vector),
    function("cosh", VECTOR, Vector),
    function("count_over_time", MATRIX, Vector),
    optional("day_of_month", VECTOR, 1),
    optional("day_of_week", VECTOR, 1),
    optional("day_of_year", VECTOR, 1),
    optional("days_in_month", VECTOR, 1),
    function("deg", VECTOR, Vector),
    function("delta", MATRIX, Vector),
    function("deriv", MATRIX, Vector),
    function("exp", VECTOR, Vector),
    function("floor", VECTOR, Vector),
    function("histogram_quantile", &[Scalar, Vector], Vector),
    optional("hour", VECTOR, 1),
    function("idelta", MATRIX, Vector),
    function("increase", MATRIX, Vector),
    function("irate", MATRIX, Vector),
    Function {
        name: "label_join",
        args: &[Vector, Text, Text, Text],
        optional: 1,
        variadic: true,
        returns: Vector,
    },
    function("label_replace", &[Vector, Text, Text, Text, Text], Vector),
    function("last_over_time", MATRIX, Vector),
    function("ln", VECTOR, Vector),
    function("log10", VECTOR, Vector),
    function("log2", VECTOR, Vector),
    function("max_over_time", MATRIX, Vector),
    function("min_over_time", MATRIX, Vector),
    optional("minute", VECTOR, 1),
    optional("month", VECTOR, 1),
    function("pi", &[], Scalar),
    function("predict_linear", &[Matrix, Scalar], Vector),
    function("present_over_time", MATRIX, Vector),
    function("quantile_over_time", &[Scalar, Matrix], Vector),
    function("rad", VECTOR, Vector),
    function("rate", MATRIX, Vector),
    function("resets", MATRIX, Vector),
    optional("round", &[Vector, Scalar], 1),
    function("scalar", VECTOR, Scalar),
    function("sgn", VECTOR, Vector),
    function("sin", VECTOR, Vector),
    function("sinh", VECTOR, Vector),
    function("sort", VECTOR, Vector),
    function("sort_desc", VECTOR, Vector),
    function("sqrt", VECTOR, Vector),
    function("stddev_over_time", MATRIX, Vector),
    function("stdvar_over_time", MATRIX, Vector),
    function("sum_over_time", MATRIX, Vector),
    function("tan", VECTOR, Vector),
    function("tanh", VECTOR, Vector),
    function("time", &[], Scalar),
    function("timestamp", VECTOR, Vector),
    function("vector", &[Scalar], Vector),
    optional("year", VECTOR, 1),
];

/// Functions Prometheus has and this engine has not, so that the error can say so.
const ABSENT: &[&str] = &[
    "double_exponential_smoothing",
    "histogram_avg",
    "histogram_count",
    "histogram_fraction",
    "histogram_stddev",
    "histogram_stdvar",
    "histogram_sum",
    "holt_winters",
    "info",
    "mad_over_time",
    "sort_by_label",
    "sort_by_label_desc",
    "ts_of_max_over_time",
    "ts_of_min_over_time",
];

impl Function {
    /// # Errors
    /// Says whether the name is unknown to Prometheus or only to this engine.
    pub fn find(name: &str) -> Result<&'static Self, String> {
        if let Some(function) = FUNCTIONS.iter().find(|f| f.name == name) {
            return Ok(function);
        }
        match ABSENT.contains(&name) {
            true => Err(format!("function {name:?} is not supported by this store")),
            false => Err(format!("unknown function with name {name:?}")),
        }
    }

    /// The type of the argument at a place.
    #[must_use]
    pub fn arg(&self, at: usize) -> Option<Kind> {
        match self.args.get(at) {
            None if self.variadic => self.args.last().copied(),
            kind => kind.copied(),
        }
    }
}
