//! The overload manager: what is measured, and what is done without while there is too much of it.
//!
//! Invariant: a trigger's monitor is one of the manager's.

use std::path::PathBuf;
use std::time::Duration;

use malla_xds_proto::pb::envoy::config::overload::v3 as pb;
use malla_xds_proto::pb::envoy::extensions::resource_monitors as monitors;
use malla_xds_proto::pb::google::protobuf::Any;
use monitors::cgroup_memory::v3::CgroupMemoryConfig;
use monitors::downstream_connections::v3::DownstreamConnectionsConfig;
use monitors::fixed_heap::v3::FixedHeapConfig;
use monitors::injected_resource::v3::InjectedResourceConfig;

use crate::checked::{Cx, Invalid, ignorable, refuse, type_name};

/// Envoy's `refresh_interval`.
const DEFAULT_REFRESH: Duration = Duration::from_secs(1);

/// `envoy.config.overload.v3.OverloadManager`
#[derive(Debug, Clone, PartialEq)]
pub struct Overload {
    /// How often it is measured.
    pub refresh: Duration,
    /// What is measured.
    pub monitors: Vec<Monitor>,
    /// What is done then.
    pub actions: Vec<Action>,
    /// No more downstream connections than this at once.
    pub max_connections: Option<u64>,
    /// What [`ActionKind::ReduceTimeouts`] makes shorter.
    pub reductions: Vec<Reduction>,
}

/// A resource and its monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Monitor {
    /// As triggers and counters call it.
    pub name: String,
    /// How it is measured.
    pub kind: MonitorKind,
}

/// How a resource is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MonitorKind {
    /// The process' memory as a part of so many bytes.
    FixedHeap(u64),
    /// The control group's memory as a part of its limit, or of this if it is less, in bytes.
    CgroupMemory(Option<u64>),
    /// A file says it: a number from 0 to 1.
    File(PathBuf),
}

/// Something that is done without.
#[derive(Debug, Clone, PartialEq)]
pub struct Action {
    /// What.
    pub kind: ActionKind,
    /// The strongest of them counts.
    pub triggers: Vec<Trigger>,
}

/// `envoy.overload_actions.*`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionKind {
    /// Requests get 503.
    StopAcceptingRequests,
    /// HTTP connections end with their next answer.
    DisableHttpKeepalive,
    /// Connections wait in the kernel.
    StopAcceptingConnections,
    /// Connections are closed as they come.
    RejectIncomingConnections,
    /// Clients are waited for less long.
    ReduceTimeouts,
}

/// `ScaleTimersOverloadActionConfig.TimerType`: a time that clients are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// `idle_timeout` of a client's HTTP connection.
    ConnectionIdle,
    /// `stream_idle_timeout`, and `idle_timeout` of routes.
    StreamIdle,
    /// `transport_socket_connect_timeout` of a filter chain.
    Handshake,
    /// `max_connection_duration` of a client's HTTP connection.
    ConnectionAge,
}

/// How short such a time gets, at worst.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reduction {
    /// Which.
    pub timer: Timer,
    /// What is left of it.
    pub least: Least,
}

/// The rest of a time that is reduced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Least {
    /// So long.
    Time(Duration),
    /// Such a part of it.
    Part(f64),
}

impl Reduction {
    /// A limit that is reduced by a degree from 0 (not at all) to 1.
    pub fn of(&self, limit: Duration, degree: f64) -> Duration {
        let least = match self.least {
            Least::Time(least) => least.min(limit),
            Least::Part(part) => limit.mul_f64(part.clamp(0.0, 1.0)),
        };
        least + (limit - least).mul_f64(1.0 - degree.clamp(0.0, 1.0))
    }
}

impl ActionKind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::StopAcceptingRequests,
        Self::DisableHttpKeepalive,
        Self::StopAcceptingConnections,
        Self::RejectIncomingConnections,
        Self::ReduceTimeouts,
    ];

    /// As configuration and counters call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::StopAcceptingRequests => "envoy.overload_actions.stop_accepting_requests",
            Self::DisableHttpKeepalive => "envoy.overload_actions.disable_http_keepalive",
            Self::StopAcceptingConnections => "envoy.overload_actions.stop_accepting_connections",
            Self::RejectIncomingConnections => "envoy.overload_actions.reject_incoming_connections",
            Self::ReduceTimeouts => "envoy.overload_actions.reduce_timeouts",
        }
    }
}

/// When an action is taken, and how far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trigger {
    /// Index of the monitor.
    pub monitor: usize,
    /// Nothing up to this pressure…
    pub from: f64,
    /// …and all from this one on; the same for a plain threshold.
    pub until: f64,
}

impl Trigger {
    /// How far the action goes at a pressure, from 0 to 1.
    pub fn degree(&self, pressure: f64) -> f64 {
        if pressure >= self.until {
            1.0
        } else if pressure <= self.from {
            0.0
        } else {
            (pressure - self.from) / (self.until - self.from)
        }
    }
}

impl Overload {
    pub(crate) fn parse(wire: pb::OverloadManager, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::OverloadManager {
            refresh_interval,
            resource_monitors,
            actions,
            loadshed_points,
            buffer_factory_config,
        } = wire;
        refuse!(cx; loadshed_points);
        ignorable!(cx; buffer_factory_config);
        let refresh = cx.duration("refresh_interval", refresh_interval)?;
        let mut out = Self {
            refresh: refresh
                .unwrap_or(DEFAULT_REFRESH)
                .max(Duration::from_millis(1)),
            monitors: Vec::new(),
            actions: Vec::new(),
            max_connections: None,
            reductions: Vec::new(),
        };
        for (index, monitor) in resource_monitors.into_iter().enumerate() {
            cx.field(&format!("resource_monitors[{index}]"), |cx| {
                out.monitor(monitor, cx)
            })?;
        }
        for (index, action) in actions.into_iter().enumerate() {
            cx.field(&format!("actions[{index}]"), |cx| out.action(action, cx))?;
        }
        Ok(out)
    }

    fn monitor(&mut self, wire: pb::ResourceMonitor, cx: &mut Cx) -> Result<(), Invalid> {
        let pb::ResourceMonitor { name, config_type } = wire;
        let Some(pb::resource_monitor::ConfigType::TypedConfig(any)) = config_type else {
            return Err(cx.invalid("typed_config", "is needed"));
        };
        if self.monitors.iter().any(|monitor| monitor.name == name) {
            return Err(cx.invalid("name", format!("{name} is there twice")));
        }
        let kind = cx.field("typed_config", |cx| self.monitor_kind(&any, cx))?;
        self.monitors
            .extend(kind.map(|kind| Monitor { name, kind }));
        Ok(())
    }

    /// How a resource is measured; `None` for connections, whose limit acts by itself.
    fn monitor_kind(&mut self, any: &Any, cx: &mut Cx) -> Result<Option<MonitorKind>, Invalid> {
        let name = type_name(any);
        let short = name.strip_prefix("envoy.extensions.resource_monitors.");
        match short.unwrap_or_default() {
            "downstream_connections.v3.DownstreamConnectionsConfig" => {
                let config: DownstreamConnectionsConfig = cx.unpack("", any)?;
                let max = u64::try_from(config.max_active_downstream_connections);
                let Some(max) = max.ok().filter(|max| *max > 0) else {
                    let field = "max_active_downstream_connections";
                    return Err(cx.invalid(field, "must be more than 0"));
                };
                self.max_connections = Some(max);
                Ok(None)
            }
            "fixed_heap.v3.FixedHeapConfig" => {
                let FixedHeapConfig {
                    max_heap_size_bytes,
                    max_heap_size_bytes_runtime,
                } = cx.unpack("", any)?;
                refuse!(cx; max_heap_size_bytes_runtime);
                if max_heap_size_bytes == 0 {
                    return Err(cx.invalid("max_heap_size_bytes", "must be more than 0"));
                }
                Ok(Some(MonitorKind::FixedHeap(max_heap_size_bytes)))
            }
            "cgroup_memory.v3.CgroupMemoryConfig" => {
                let CgroupMemoryConfig { max_memory_bytes } = cx.unpack("", any)?;
                let most = (max_memory_bytes > 0).then_some(max_memory_bytes);
                Ok(Some(MonitorKind::CgroupMemory(most)))
            }
            "injected_resource.v3.InjectedResourceConfig" => {
                let InjectedResourceConfig { filename } = cx.unpack("", any)?;
                Ok(Some(MonitorKind::File(filename.into())))
            }
            _ => {
                let reason = format!("resource monitor {name} is not supported by this proxy");
                Err(cx.invalid("", reason))
            }
        }
    }

    fn action(&mut self, wire: pb::OverloadAction, cx: &mut Cx) -> Result<(), Invalid> {
        let pb::OverloadAction {
            name,
            triggers,
            typed_config,
        } = wire;
        let kind = ActionKind::ALL.into_iter().find(|kind| kind.name() == name);
        let Some(kind) = kind else {
            return match name.strip_prefix("envoy.overload_actions.") {
                Some("shrink_heap" | "reset_high_memory_stream") => {
                    cx.warn("name", format!("{name} has no effect in this proxy"));
                    Ok(())
                }
                _ => Err(cx.invalid("name", format!("there is no overload action {name}"))),
            };
        };
        if kind == ActionKind::ReduceTimeouts {
            let any = cx.required("typed_config", typed_config)?;
            self.reductions = cx.field("typed_config", |cx| reductions(&any, cx))?;
        } else {
            refuse!(cx; typed_config);
        }
        if self.actions.iter().any(|action| action.kind == kind) {
            return Err(cx.invalid("name", format!("{name} is there twice")));
        }
        let triggers: Vec<Trigger> =
            cx.each("triggers", triggers, |wire, cx| self.trigger(wire, cx))?;
        if triggers.is_empty() {
            return Err(cx.invalid("triggers", "at least one is needed"));
        }
        self.actions.push(Action { kind, triggers });
        Ok(())
    }

    fn trigger(&self, wire: pb::Trigger, cx: &mut Cx) -> Result<Trigger, Invalid> {
        let pb::Trigger {
            name,
            trigger_oneof,
        } = wire;
        let known = self.monitors.iter().position(|known| known.name == name);
        let Some(monitor) = known else {
            let reason = format!("{name} is no resource that is monitored for actions");
            return Err(cx.invalid("name", reason));
        };
        let part = |field: &str, value: f64| match (0.0..=1.0).contains(&value) {
            true => Ok(value),
            false => Err(cx.invalid(field, format!("{value} is not between 0 and 1"))),
        };
        let (from, until) = match cx.required("trigger_oneof", trigger_oneof)? {
            pb::trigger::TriggerOneof::Threshold(wire) => {
                let value = part("threshold.value", wire.value)?;
                (value, value)
            }
            pb::trigger::TriggerOneof::Scaled(wire) => (
                part("scaled.scaling_threshold", wire.scaling_threshold)?,
                part("scaled.saturation_threshold", wire.saturation_threshold)?,
            ),
        };
        if from > until
            || matches!(trigger_oneof, Some(pb::trigger::TriggerOneof::Scaled(_))) && from == until
        {
            let reason = "scaling_threshold must be less than saturation_threshold";
            return Err(cx.invalid("scaled", reason));
        }
        Ok(Trigger {
            monitor,
            from,
            until,
        })
    }
}

fn reductions(any: &Any, cx: &mut Cx) -> Result<Vec<Reduction>, Invalid> {
    const KNOWN: &str = "envoy.config.overload.v3.ScaleTimersOverloadActionConfig";
    let name = type_name(any);
    if name != KNOWN {
        return Err(cx.invalid("", format!("{name} is not {KNOWN}")));
    }
    let pb::ScaleTimersOverloadActionConfig {
        timer_scale_factors,
    } = cx.unpack("", any)?;
    cx.each("timer_scale_factors", timer_scale_factors, |wire, cx| {
        use pb::scale_timers_overload_action_config::TimerType;
        use pb::scale_timers_overload_action_config::scale_timer::OverloadAdjust;
        let timer = match cx.enumeration("timer", wire.timer)? {
            TimerType::HttpDownstreamConnectionIdle => Timer::ConnectionIdle,
            TimerType::HttpDownstreamStreamIdle => Timer::StreamIdle,
            TimerType::TransportSocketConnect => Timer::Handshake,
            TimerType::HttpDownstreamConnectionMax => Timer::ConnectionAge,
            other @ (TimerType::HttpDownstreamStreamFlush | TimerType::Unspecified) => {
                let reason = format!("{} is not supported by this proxy", other.as_str_name());
                return Err(cx.invalid("timer", reason));
            }
        };
        let least = match cx.required("overload_adjust", wire.overload_adjust)? {
            OverloadAdjust::MinTimeout(least) => {
                let least = cx.duration("min_timeout", Some(least))?;
                Least::Time(least.unwrap_or_default())
            }
            OverloadAdjust::MinScale(part) if (0.0..=100.0).contains(&part.value) => {
                Least::Part(part.value / 100.0)
            }
            OverloadAdjust::MinScale(part) => {
                let reason = format!("{} is not between 0 and 100", part.value);
                return Err(cx.invalid("min_scale.value", reason));
            }
        };
        Ok(Reduction { timer, least })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_reduced_down_to_what_is_left() {
        let check = |least, degree, millis| {
            let timer = Timer::StreamIdle;
            let reduced = Reduction { timer, least }.of(Duration::from_secs(1), degree);
            assert_eq!(reduced, Duration::from_millis(millis), "{least:?} {degree}");
        };
        let time = |millis| Least::Time(Duration::from_millis(millis));
        check(time(200), 0.0, 1000);
        check(time(200), 0.5, 600);
        check(time(200), 1.0, 200);
        check(time(5000), 1.0, 1000);
        check(Least::Part(0.1), 1.0, 100);
        check(Least::Part(0.5), 0.5, 750);
    }

    #[test]
    fn a_trigger_says_how_far_its_action_goes() {
        let trigger = |from, until| Trigger {
            monitor: 0,
            from,
            until,
        };
        for (trigger, pressure, degree) in [
            (trigger(0.8, 0.8), 0.79, 0.0),
            (trigger(0.8, 0.8), 0.8, 1.0),
            (trigger(0.5, 0.9), 0.5, 0.0),
            (trigger(0.5, 0.9), 0.7, 0.5),
            (trigger(0.5, 0.9), 2.0, 1.0),
        ] {
            let have = trigger.degree(pressure);
            assert!(
                (have - degree).abs() < 1e-9,
                "{trigger:?} at {pressure}: {have}"
            );
        }
    }
}
