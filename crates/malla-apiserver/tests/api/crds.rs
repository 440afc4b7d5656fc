//! Custom resources: registered while the server runs, and served like any other.

use crate::cluster::Cluster;

const CRD: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wg], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}
    additionalPrinterColumns:
    - {name: Size, type: string, jsonPath: .spec.size}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [size]
            properties:
              size: {type: string, enum: [small, large], description: How large it is.}
              replicas: {type: integer, default: 1, minimum: 0}
              limit: {type: integer}
            x-kubernetes-validations:
            - {rule: "!has(self.limit) || self.replicas <= self.limit", message: replicas exceed the limit}
            - {rule: "self.size == oldSelf.size", message: size is immutable}
          status:
            type: object
            properties: {replicas: {type: integer}}
  - name: v1beta1
    served: true
    storage: false
    schema:
      openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}
"#;

const WIDGET: &str = "
apiVersion: example.com/v1
kind: Widget
metadata: {name: w}
spec: {size: small}
";

async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.apply(CRD).await;
    cluster
        .ok(&[
            "wait",
            "--for=condition=Established",
            "crd/widgets.example.com",
            "--timeout=5s",
        ])
        .await;
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_objects_are_defaulted_printed_and_scaled() {
    let cluster = cluster().await;
    cluster.apply(WIDGET).await;
    let table = cluster.ok(&["get", "wg"]).await;
    assert_eq!(
        table
            .lines()
            .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>(),
        ["NAME SIZE", "w small"]
    );
    let one = cluster.json(&["widget", "w"]).await;
    assert_eq!(one["spec"]["replicas"], 1, "the default");
    cluster.ok(&["scale", "widget", "w", "--replicas=3"]).await;
    let scaled = cluster.json(&["widget", "w"]).await;
    assert_eq!(scaled["spec"]["replicas"], 3);
    assert_eq!(scaled["metadata"]["generation"], 2);
    assert!(
        cluster
            .ok(&["get", "all"])
            .await
            .contains("widget.example.com/w")
    );
    let explained = cluster.ok(&["explain", "widget.spec.size"]).await;
    assert!(explained.contains("How large it is."), "{explained}");
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_objects_are_validated() {
    let cluster = cluster().await;
    let check = |yaml: String, want: &'static str| {
        let cluster = &cluster;
        async move {
            let refused = cluster.feed(&["apply", "-f", "-"], &yaml).await;
            assert!(
                !refused.ok && refused.err.contains(want),
                "{want}: {refused:?}"
            );
        }
    };
    check(
        WIDGET.replace("size: small", "size: huge"),
        r#"spec.size: Unsupported value: "huge": supported values: "small", "large""#,
    )
    .await;
    check(
        WIDGET.replace("size: small", "replicas: 1"),
        "spec.size: Required value",
    )
    .await;
    check(
        WIDGET.replace("size: small", "size: small, replicas: 9, limit: 5"),
        "replicas exceed the limit",
    )
    .await;
    check(
        WIDGET.replace("size: small", "size: small, colour: red"),
        r#"unknown field "spec.colour""#,
    )
    .await;
    cluster.apply(WIDGET).await;
    check(
        WIDGET.replace("size: small", "size: large"),
        "size is immutable",
    )
    .await;
    let pruned = WIDGET.replace("size: small", "size: small, colour: red");
    assert!(
        cluster
            .feed(&["apply", "--validate=ignore", "-f", "-"], &pruned)
            .await
            .ok
    );
    assert!(cluster.json(&["widget", "w"]).await["spec"]["colour"].is_null());
    let strategic = cluster
        .fails(&["patch", "widget", "w", "--type=strategic", "-p", "{}"])
        .await;
    assert!(
        strategic.contains("strategic merge patch is not supported")
            || strategic.contains("application/merge-patch+json"),
        "{strategic}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_a_custom_object_is_its_own_endpoint() {
    let cluster = cluster().await;
    cluster
        .apply(&format!("{WIDGET}status: {{replicas: 9}}\n"))
        .await;
    assert!(cluster.json(&["widget", "w"]).await["status"].is_null());
    cluster
        .ok(&[
            "patch",
            "widget",
            "w",
            "--subresource=status",
            "--type=merge",
            "-p",
            r#"{"status": {"replicas": 4}, "spec": {"size": "large"}}"#,
        ])
        .await;
    let got = cluster.json(&["widget", "w"]).await;
    assert_eq!(
        (&got["status"]["replicas"], &got["spec"]["size"]),
        (&4.into(), &"small".into())
    );
    assert_eq!(got["metadata"]["generation"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_versions_show_one_object() {
    let cluster = cluster().await;
    cluster.apply(WIDGET).await;
    let beta = cluster.json(&["widgets.v1beta1.example.com", "w"]).await;
    assert_eq!(
        (&beta["apiVersion"], &beta["spec"]["size"]),
        (&"example.com/v1beta1".into(), &"small".into())
    );
    let made = WIDGET
        .replace("example.com/v1", "example.com/v1beta1")
        .replace("name: w", "name: x");
    cluster.apply(&made).await;
    assert_eq!(
        cluster.json(&["widget", "x"]).await["apiVersion"],
        "example.com/v1"
    );
    let unserved = CRD.replace(
        "name: v1beta1\n    served: true",
        "name: v1beta1\n    served: false",
    );
    cluster.apply(&unserved).await;
    let gone = cluster
        .fails(&["get", "--raw", "/apis/example.com/v1beta1/widgets"])
        .await;
    assert!(gone.contains("NotFound"), "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deprecated_version_warns() {
    let cluster = cluster().await;
    cluster.apply(WIDGET).await;
    let old = ["get", "widgets.v1beta1.example.com", "w"];
    assert_eq!(cluster.run(&old).await.err, "");
    let deprecate = |text: &str| CRD.replace("name: v1beta1\n", &format!("name: v1beta1\n{text}"));
    cluster.apply(&deprecate("    deprecated: true\n")).await;
    let warned = cluster.run(&old).await;
    assert!(
        warned.ok
            && warned
                .err
                .contains("Warning: example.com/v1beta1 Widget is deprecated"),
        "{warned:?}"
    );
    let text = "    deprecated: true\n    deprecationWarning: use v1, it has the columns\n";
    cluster.apply(&deprecate(text)).await;
    let made = WIDGET
        .replace("example.com/v1", "example.com/v1beta1")
        .replace("name: w", "name: x");
    let warned = cluster.feed(&["create", "-f", "-"], &made).await;
    assert!(
        warned.ok && warned.err.contains("Warning: use v1, it has the columns"),
        "{warned:?}"
    );
    assert_eq!(cluster.run(&["get", "widget", "w"]).await.err, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_definition_takes_its_objects_along() {
    let cluster = cluster().await;
    cluster.apply(WIDGET).await;
    cluster
        .ok(&[
            "patch",
            "widget",
            "w",
            "--type=merge",
            "-p",
            r#"{"metadata": {"finalizers": ["example.com/hold"]}}"#,
        ])
        .await;
    cluster
        .ok(&["delete", "crd", "widgets.example.com", "--wait=false"])
        .await;
    let held = cluster.json(&["crd", "widgets.example.com"]).await;
    assert!(held["metadata"]["deletionTimestamp"].is_string());
    let refused = cluster
        .feed(
            &["create", "-f", "-"],
            &WIDGET.replace("name: w", "name: v"),
        )
        .await;
    assert!(
        refused
            .err
            .contains("custom resource definition is terminating"),
        "{}",
        refused.err
    );
    cluster
        .ok(&[
            "patch",
            "widget",
            "w",
            "--type=merge",
            "-p",
            r#"{"metadata": {"finalizers": null}}"#,
        ])
        .await;
    cluster
        .ok(&[
            "wait",
            "--for=delete",
            "crd/widgets.example.com",
            "--timeout=10s",
        ])
        .await;
    let gone = cluster.fails(&["get", "widgets"]).await;
    assert!(gone.contains("the server"), "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_and_objects_survive_a_restart() {
    let cluster = cluster().await;
    cluster.apply(WIDGET).await;
    let before = cluster.json(&["widget", "w"]).await;
    let cluster = cluster.restart().await;
    let after = cluster.json(&["widget", "w"]).await;
    assert_eq!(after, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_in_use_are_not_given_twice() {
    let cluster = cluster().await;
    let second = CRD
        .replace("widgets", "gadgets")
        .replace("singular: widget", "singular: gadget")
        .replace("wg", "gd");
    cluster.apply(&second).await;
    let crd = cluster.json(&["crd", "gadgets.example.com"]).await;
    let conditions = crd["status"]["conditions"].as_array().unwrap();
    let names = conditions
        .iter()
        .find(|c| c["type"] == "NamesAccepted")
        .unwrap();
    assert_eq!(
        (&names["status"], &names["reason"]),
        (&"False".into(), &"KindConflict".into())
    );
    assert!(
        cluster
            .fails(&["get", "gadgets"])
            .await
            .contains("doesn't have a resource type")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_definition_is_refused_with_its_field() {
    let cluster = Cluster::start().await;
    let check = |yaml: String, want: &'static str| {
        let cluster = &cluster;
        async move {
            let refused = cluster.feed(&["apply", "-f", "-"], &yaml).await;
            assert!(
                !refused.ok && refused.err.contains(want),
                "{want}: {refused:?}"
            );
        }
    };
    check(
        CRD.replace("name: widgets.example.com", "name: wodgets.example.com"),
        "metadata.name",
    )
    .await;
    check(
        CRD.replace("storage: true", "storage: false"),
        "spec.versions",
    )
    .await;
    check(
        CRD.replace("self.replicas <=", "self.replicas <=> "),
        "x-kubernetes-validations",
    )
    .await;
}
