//! `pods/log`, `pods/exec`, `pods/attach` and `pods/portforward`: the way to the node.

use std::sync::Arc;

use futures_util::TryStreamExt;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};

use super::respond::{self, Body};
use super::{Exchange, options, socket};
use crate::admission::{self, Operation, Review};
use crate::error::{ApiError, Reason};
use crate::outside::{ExecOptions, LogOptions, NodeRuntime};
use crate::rest::{Target, read};

/// Longest argv of an exec, bytes.
const MAX_COMMAND: usize = 32 * 1024;

/// Serves one of the node's subresources.
pub(super) async fn serve(
    exchange: Exchange,
    target: Target,
    subresource: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let pod = read::get(&exchange.core, &target)?;
    match (subresource, &exchange.method) {
        ("log", &Method::GET) => log(&exchange, &target, pod).await,
        ("exec" | "attach", &(Method::GET | Method::POST)) => {
            let options = exec_options(&exchange, &target, &pod, subresource == "exec")?;
            let node = node(&exchange, &target, &pod)?;
            let (kind, session) = match subresource {
                "exec" => ("PodExecOptions", socket::Work::Exec(options.clone())),
                _ => ("PodAttachOptions", socket::Work::Attach(options.clone())),
            };
            let object = json!({
                "kind": kind, "apiVersion": "v1", "container": options.container, "command": options.command,
                "stdin": options.stdin, "stdout": options.stdout, "stderr": options.stderr, "tty": options.tty,
            });
            admit(&exchange, &target, subresource, kind, &object).await?;
            socket::upgrade(&exchange, request, node, pod, session)
        }
        ("portforward", &(Method::GET | Method::POST)) => {
            let node = node(&exchange, &target, &pod)?;
            let ports = ports(&exchange)?;
            let kind = "PodPortForwardOptions";
            let object = json!({"kind": kind, "apiVersion": "v1", "ports": ports});
            admit(&exchange, &target, subresource, kind, &object).await?;
            socket::upgrade(&exchange, request, node, pod, socket::Work::Forward(ports))
        }
        _ => Err(ApiError::method_not_allowed(
            subresource,
            exchange.method.as_str(),
        )),
    }
}

/// Lets webhooks refuse the connection (operation `CONNECT`), by the options it is asked with.
async fn admit(
    exchange: &Exchange,
    target: &Target,
    subresource: &str,
    kind: &'static str,
    object: &Value,
) -> Result<(), ApiError> {
    let mut cx = options::cx(exchange, target)?;
    let mut review = Review::new(target, Operation::Connect, &target.name, Some(subresource));
    review.object_kind = Some(kind);
    admission::validate(&exchange.core, &review, Some(object), &mut cx).await
}

async fn log(
    exchange: &Exchange,
    target: &Target,
    pod: Arc<Value>,
) -> Result<Response<Body>, ApiError> {
    let query = &exchange.query;
    let container = container(&pod, target, query.get("container"))?;
    let since_time = match query.get("sinceTime") {
        "" => None,
        text => Some(text.parse().map_err(|_| {
            ApiError::bad_request(format!(
                "sinceTime: Invalid value: {text:?}: must be an RFC 3339 time"
            ))
        })?),
    };
    let options = LogOptions {
        container,
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        timestamps: query.flag("timestamps"),
        since_seconds: query.number("sinceSeconds")?,
        since_time,
        tail_lines: query.number("tailLines")?,
        limit_bytes: query.number("limitBytes")?,
    };
    if options.since_seconds.is_some() && options.since_time.is_some() {
        return Err(ApiError::bad_request(
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        ));
    }
    let node = node(exchange, target, &pod)?;
    let stopping = exchange.stopping.clone();
    let stream = node.logs(pod, options).await?;
    let stream = futures_util::StreamExt::take_until(stream, async move {
        stopping.cancelled_owned().await;
    });
    let frames = stream.map_ok(Frame::data);
    Ok(respond::stream(
        "text/plain",
        StreamBody::new(frames).boxed_unsync(),
    ))
}

fn exec_options(
    exchange: &Exchange,
    target: &Target,
    pod: &Value,
    command: bool,
) -> Result<ExecOptions, ApiError> {
    let query = &exchange.query;
    let options = ExecOptions {
        container: container(pod, target, query.get("container"))?,
        command: query.all("command").map(str::to_owned).collect(),
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        // A terminal has one output.
        stderr: query.flag("stderr") && !query.flag("tty"),
        tty: query.flag("tty"),
    };
    if command && options.command.is_empty() {
        return Err(ApiError::bad_request(
            "you must specify at least 1 command for the container",
        ));
    }
    if options.command.iter().map(String::len).sum::<usize>() > MAX_COMMAND {
        return Err(ApiError::bad_request(format!(
            "the command is longer than {MAX_COMMAND} bytes"
        )));
    }
    if !options.stdin && !options.stdout && !options.stderr {
        return Err(ApiError::bad_request(
            "you must specify at least one of stdin, stdout, stderr",
        ));
    }
    Ok(options)
}

fn ports(exchange: &Exchange) -> Result<Vec<u16>, ApiError> {
    let texts = exchange.query.all("ports").flat_map(|text| text.split(','));
    texts
        .map(|text| match text.parse() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(ApiError::bad_request(format!(
                "ports: Invalid value: {text:?}: must be between 1 and 65535"
            ))),
        })
        .collect()
}

/// The node that runs the pod.
fn node(
    exchange: &Exchange,
    target: &Target,
    pod: &Value,
) -> Result<Arc<dyn NodeRuntime>, ApiError> {
    if pod["spec"]["nodeName"].as_str().unwrap_or("").is_empty() {
        return Err(ApiError::bad_request(format!(
            "pod {} does not have a host assigned",
            target.name
        )));
    }
    exchange.core.node().ok_or_else(|| {
        ApiError::new(
            Reason::ServiceUnavailable,
            "no node runs pods in this cluster",
        )
    })
}

/// The container a request means: the named one, the annotated default, or the only one.
fn container(pod: &Value, target: &Target, wanted: &str) -> Result<String, ApiError> {
    let names = |list: &str| -> Vec<String> {
        let list = pod["spec"][list].as_array().into_iter().flatten();
        list.filter_map(|container| Some(container["name"].as_str()?.to_owned()))
            .collect()
    };
    let (mains, inits) = (names("containers"), names("initContainers"));
    let ephemeral = names("ephemeralContainers");
    if !wanted.is_empty() {
        let mut all = mains.iter().chain(&inits).chain(&ephemeral);
        return match all.any(|name| name == wanted) {
            true => Ok(wanted.to_owned()),
            false => Err(ApiError::bad_request(format!(
                "container {wanted} is not valid for pod {}",
                target.name
            ))),
        };
    }
    let default = &pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"];
    if let Some(default) = default
        .as_str()
        .filter(|name| mains.iter().any(|main| main == name))
    {
        return Ok(default.to_owned());
    }
    match mains.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(ApiError::bad_request(format!(
            "pod {} has no containers",
            target.name
        ))),
        many => {
            let mut message = format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                target.name,
                many.join(" ")
            );
            if !inits.is_empty() {
                message.push_str(&format!(
                    " or one of the init containers: [{}]",
                    inits.join(" ")
                ));
            }
            Err(ApiError::bad_request(message))
        }
    }
}
