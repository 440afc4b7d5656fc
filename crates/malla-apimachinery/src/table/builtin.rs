//! The columns of the built-in kinds (`k8s.io/kubernetes/pkg/printers/internalversion`).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{CREATED, cells, pod};

type Cells = fn(&Value, Timestamp) -> Vec<Value>;

/// How a kind prints: its columns and what fills them.
#[derive(Clone, Copy)]
pub(super) struct Printer {
    columns: &'static [&'static str],
    cells: Cells,
}

impl std::fmt::Debug for Printer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.columns).finish()
    }
}

/// Columns whose name starts with `+` are shown only with `-o wide`.
const fn printer(columns: &'static [&'static str], cells: Cells) -> Printer {
    Printer { columns, cells }
}

const EVENT: Printer = printer(
    &[
        "Last Seen",
        "Type",
        "Reason",
        "Object",
        "+Subobject",
        "+Source",
        "Message",
        "+First Seen",
        "+Count",
        "+Name",
    ],
    cells::event,
);
const WEBHOOKS: Printer = printer(&["Name", "Webhooks", "Age"], cells::webhooks);
const CREATED_AT: Printer = printer(&["Name", "Created At"], cells::created_at);
const BINDING: Printer = printer(
    &[
        "Name",
        "Role",
        "Age",
        "+Users",
        "+Groups",
        "+ServiceAccounts",
    ],
    cells::binding,
);
const PLAIN: Printer = printer(&["Name", "Age"], |object, now| {
    vec![cells::name(object), cells::age(object, now)]
});

/// (group, kind, printer)
const PRINTERS: &[(&str, &str, Printer)] = &[
    (
        "",
        "Pod",
        printer(
            &[
                "Name",
                "Ready",
                "Status",
                "Restarts",
                "Age",
                "+IP",
                "+Node",
                "+Nominated Node",
                "+Readiness Gates",
            ],
            pod::cells,
        ),
    ),
    (
        "",
        "Service",
        printer(
            &[
                "Name",
                "Type",
                "Cluster-IP",
                "External-IP",
                "Port(s)",
                "Age",
                "+Selector",
            ],
            cells::service,
        ),
    ),
    (
        "",
        "Node",
        printer(
            &[
                "Name",
                "Status",
                "Roles",
                "Age",
                "Version",
                "+Internal-IP",
                "+External-IP",
                "+OS-Image",
                "+Kernel-Version",
                "+Container-Runtime",
            ],
            cells::node,
        ),
    ),
    (
        "apps",
        "Deployment",
        printer(
            &[
                "Name",
                "Ready",
                "Up-to-date",
                "Available",
                "Age",
                "+Containers",
                "+Images",
                "+Selector",
            ],
            cells::deployment,
        ),
    ),
    (
        "apps",
        "ReplicaSet",
        printer(
            &[
                "Name",
                "Desired",
                "Current",
                "Ready",
                "Age",
                "+Containers",
                "+Images",
                "+Selector",
            ],
            cells::replica_set,
        ),
    ),
    (
        "discovery.k8s.io",
        "EndpointSlice",
        printer(
            &["Name", "AddressType", "Ports", "Endpoints", "Age"],
            cells::endpoint_slice,
        ),
    ),
    (
        "",
        "Endpoints",
        printer(&["Name", "Endpoints", "Age"], cells::endpoints),
    ),
    (
        "",
        "Namespace",
        printer(&["Name", "Status", "Age"], cells::namespace),
    ),
    (
        "",
        "ConfigMap",
        printer(&["Name", "Data", "Age"], cells::config_map),
    ),
    (
        "",
        "Secret",
        printer(&["Name", "Type", "Data", "Age"], cells::secret),
    ),
    (
        "",
        "ServiceAccount",
        printer(&["Name", "Secrets", "Age"], cells::service_account),
    ),
    (
        "coordination.k8s.io",
        "Lease",
        printer(&["Name", "Holder", "Age"], cells::lease),
    ),
    ("", "Event", EVENT),
    ("events.k8s.io", "Event", EVENT),
    (
        "admissionregistration.k8s.io",
        "MutatingWebhookConfiguration",
        WEBHOOKS,
    ),
    (
        "admissionregistration.k8s.io",
        "ValidatingWebhookConfiguration",
        WEBHOOKS,
    ),
    (
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        CREATED_AT,
    ),
    ("rbac.authorization.k8s.io", "ClusterRole", CREATED_AT),
    ("rbac.authorization.k8s.io", "Role", CREATED_AT),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding", BINDING),
    ("rbac.authorization.k8s.io", "RoleBinding", BINDING),
];

impl Printer {
    pub(super) fn of(group: &str, kind: &str) -> Self {
        let row = PRINTERS.iter().find(|row| row.0 == group && row.1 == kind);
        row.map_or(PLAIN, |row| row.2)
    }

    pub(super) fn definitions(&self) -> Vec<Value> {
        let definition = |column: &&str| match column.strip_prefix('+') {
            Some(name) => definition(name, 1),
            None => definition(column, 0),
        };
        self.columns.iter().map(definition).collect()
    }

    /// The cells, in the order of the definitions.
    pub(super) fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        (self.cells)(object, now)
    }
}

fn definition(name: &str, priority: i32) -> Value {
    let description = match name {
        "Name" => "Name must be unique within a namespace.",
        "Age" | "Created At" => CREATED,
        _ => "",
    };
    let kind = match name {
        "Up-to-date" | "Available" | "Desired" | "Current" | "Data" | "Secrets" | "Webhooks" => {
            "integer"
        }
        "Created At" => "date",
        _ => "string",
    };
    let format = if name == "Name" { "name" } else { "" };
    json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority})
}
