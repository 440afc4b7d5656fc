//! What stands in the parentheses of commands.

use serde::Deserialize;

use super::operator::{
    Field, HostOrigin, MetadataSource, Milestone, Operator, PathOrigin, Plain, StateForm,
};

/// Most commands that one `COALESCE` may try; one within another counts for its own.
const MOST_CHOICES: usize = 32;

/// `X?Y`.
pub(super) fn fields(name: &str, argument: Option<&str>) -> Result<(Field, Option<Field>), String> {
    let argument =
        argument.ok_or_else(|| format!("%{name}% needs a header name in parentheses"))?;
    let (main, alternative) = match argument.split_once('?') {
        Some((main, alternative)) => (main, Some(Field::parse(alternative)?)),
        None => (argument, None),
    };
    Ok((Field::parse(main)?, alternative))
}

pub(super) fn duration(argument: &str) -> Result<Operator, String> {
    let mut parts = argument.split(':');
    let (start, end, unit) = (parts.next(), parts.next(), parts.next());
    let (Some(start), Some(end), None) = (start, end, parts.next()) else {
        return Err("%COMMON_DURATION% needs (start:end:precision)".to_owned());
    };
    Ok(Operator::CommonDuration {
        start: Milestone::from_name(start),
        end: Milestone::from_name(end),
        unit: match unit {
            None | Some("ms") => 1_000_000,
            Some("us") => 1_000,
            Some("ns") => 1,
            Some(other) => {
                return Err(format!("%COMMON_DURATION(…:{other})% takes ms, us or ns"));
            }
        },
    })
}

pub(super) fn path(argument: Option<&str>) -> Result<Operator, String> {
    let argument = argument.unwrap_or("");
    let (query, origin) = argument.split_once(':').unwrap_or((argument, ""));
    let query = match query {
        "" | "WQ" => true,
        "NQ" => false,
        other => return Err(format!("%PATH({other})% takes WQ or NQ")),
    };
    let original = match origin {
        "" | "ORIG_OR_PATH" => PathOrigin::OriginalOrCurrent,
        "ORIG" => PathOrigin::Original,
        "PATH" => PathOrigin::Current,
        other => return Err(format!("%PATH(:{other})% takes ORIG, PATH or ORIG_OR_PATH")),
    };
    Ok(Operator::Path { query, original })
}

pub(super) fn query(argument: Option<&str>) -> Result<Operator, String> {
    match argument {
        None | Some("ORIG") => Ok(Operator::Plain(Plain::QueryParams)),
        Some("DECODED") => Ok(Operator::DecodedQuery),
        Some(other) => Err(format!("%QUERY_PARAMS({other})% takes ORIG or DECODED")),
    }
}

pub(super) fn grpc_status(argument: Option<&str>) -> Result<Operator, String> {
    match argument {
        None | Some("CAMEL_STRING") => Ok(Operator::Plain(Plain::GrpcStatus)),
        Some("SNAKE_STRING") => Ok(Operator::GrpcStatusSnake),
        Some("NUMBER") => Ok(Operator::Plain(Plain::GrpcStatusNumber)),
        Some(other) => Err(format!(
            "%GRPC_STATUS({other})% takes CAMEL_STRING, SNAKE_STRING or NUMBER"
        )),
    }
}

pub(super) fn server_name(argument: Option<&str>) -> Result<Operator, String> {
    let argument = argument.unwrap_or("");
    let (order, host) = argument.split_once(':').unwrap_or((argument, ""));
    let host = match host {
        "" | "ORIG_OR_HOST" => HostOrigin::OriginalOrCurrent,
        "ORIG" => HostOrigin::Original,
        "HOST" => HostOrigin::Current,
        other => {
            return Err(format!(
                "%REQUESTED_SERVER_NAME(:{other})% takes ORIG, HOST or ORIG_OR_HOST"
            ));
        }
    };
    Ok(match order {
        "" | "SNI_ONLY" => Operator::Plain(Plain::RequestedServerName),
        "SNI_FIRST" => Operator::ServerName {
            host_first: false,
            host,
        },
        "HOST_FIRST" => Operator::ServerName {
            host_first: true,
            host,
        },
        other => {
            return Err(format!(
                "%REQUESTED_SERVER_NAME({other})% takes SNI_ONLY, SNI_FIRST or HOST_FIRST"
            ));
        }
    })
}

/// The length of a prefix; one that is longer than an address is all of it.
pub(super) fn network(address: Plain, bits: &str) -> Result<Operator, String> {
    let bits = bits
        .parse::<u32>()
        .map_err(|_| format!("`{bits}` is not the length of an address' prefix"))?;
    Ok(Operator::Network(
        address,
        u8::try_from(bits).unwrap_or(u8::MAX),
    ))
}

pub(super) fn filter_state(argument: &str, upstream: bool) -> Result<Operator, String> {
    let mut parts = argument.splitn(3, ':');
    let (key, kind, field) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
        parts.next(),
    );
    if key.is_empty() {
        return Err("%FILTER_STATE% needs a key".to_owned());
    }
    let form = match (kind, field.filter(|field| !field.is_empty())) {
        ("" | "TYPED", None) => StateForm::Typed,
        ("PLAIN", None) => StateForm::Plain,
        ("FIELD", Some(_)) => StateForm::Field,
        (other, _) => {
            return Err(format!(
                "%FILTER_STATE({key}:{other})% takes PLAIN, TYPED, or FIELD with the field's name"
            ));
        }
    };
    Ok(Operator::FilterState {
        key: key.to_owned(),
        form: if upstream { StateForm::Upstream } else { form },
    })
}

pub(super) fn metadata(argument: &str) -> Result<Operator, String> {
    let (kind, rest) = argument.split_once(':').unwrap_or((argument, ""));
    let source = match kind {
        "DYNAMIC" => MetadataSource::Dynamic,
        "CLUSTER" => MetadataSource::Cluster,
        "ROUTE" => MetadataSource::Route,
        "VIRTUAL_HOST" => MetadataSource::VirtualHost,
        "UPSTREAM_HOST" => MetadataSource::UpstreamHost,
        "LISTENER" => MetadataSource::Listener,
        "LISTENER_FILTER_CHAIN" => MetadataSource::FilterChain,
        other => return Err(format!("%METADATA({other}:…)%: there is no such metadata")),
    };
    Ok(tree(source, rest))
}

/// `namespace:key…`.
pub(super) fn tree(source: MetadataSource, argument: &str) -> Operator {
    let mut parts = argument.split(':').map(str::to_owned);
    let namespace = parts.next().unwrap_or_default();
    Operator::Metadata {
        source,
        namespace,
        path: parts.collect(),
    }
}

/// `path` or `path:directory to watch`; the file itself is watched in either case.
pub(super) fn file(argument: &str) -> Result<Operator, String> {
    let mut parts = argument.split(':');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(path), _, None) if !path.is_empty() => Ok(Operator::FileContent(path.into())),
        _ => Err(format!(
            "%FILE_CONTENT({argument})% takes a path, or a path:directory"
        )),
    }
}

/// What `COALESCE` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Choices {
    operators: Vec<Choice>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Choice {
    Name(String),
    #[serde(rename_all = "snake_case")]
    Command {
        command: String,
        #[serde(default)]
        param: Option<String>,
        #[serde(default)]
        max_length: Option<usize>,
    },
}

pub(super) fn coalesce(argument: &str) -> Result<Operator, String> {
    let choices: Choices = serde_json::from_str(argument)
        .map_err(|error| format!("%COALESCE% needs {{\"operators\": […]}}: {error}"))?;
    if choices.operators.is_empty() || choices.operators.len() > MOST_CHOICES {
        return Err(format!("%COALESCE% takes one to {MOST_CHOICES} operators"));
    }
    let operators = choices.operators.into_iter().map(|choice| {
        let (name, param, length) = match choice {
            Choice::Name(name) => (name, None, None),
            Choice::Command {
                command,
                param,
                max_length,
            } => (command, param, max_length),
        };
        if name == "COALESCE" {
            return Err("%COALESCE% takes no other COALESCE".to_owned());
        }
        let operator = Operator::parse(&name, param.as_deref(), length.is_some())?;
        Ok((operator, length))
    });
    operators
        .collect::<Result<_, String>>()
        .map(Operator::Coalesce)
}
