//! Service-account tokens: made by kubectl, checked by TokenReview, used as credentials.

use http::Method;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::http::{request, send};

async fn review(cluster: &Cluster, token: &str, audiences: &[&str]) -> Value {
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token, "audiences": audiences},
    });
    let headers = [("content-type", "application/json")];
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let answer = send(
        cluster,
        false,
        request(Method::POST, path, &headers, review.to_string()),
    )
    .await;
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    answer.json()["status"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_its_audience_only() {
    let cluster = Cluster::start().await;
    let token = cluster
        .ok(&[
            "create",
            "token",
            "default",
            "--audience=istio-ca",
            "--duration=20m",
        ])
        .await;
    let status = review(&cluster, &token, &["istio-ca", "other"]).await;
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(
        status["user"]["username"],
        "system:serviceaccount:default:default"
    );
    assert_eq!(status["audiences"], json!(["istio-ca"]));
    let groups = status["user"]["groups"].as_array().unwrap();
    assert!(
        groups.contains(&json!("system:serviceaccounts:default")),
        "{groups:?}"
    );
    let other = review(&cluster, &token, &["elsewhere"]).await;
    assert!(
        other["authenticated"].is_null() && other["error"].as_str().unwrap().contains("audiences"),
        "{other}"
    );
    let mut forged = token.clone();
    let last = if forged.pop() == Some('A') { 'B' } else { 'A' };
    forged.push(last);
    assert!(review(&cluster, &forged, &["istio-ca"]).await["authenticated"].is_null());
    // A token for somebody else does not open the API.
    let bearer = format!("Bearer {token}");
    let answer = send(
        &cluster,
        true,
        request(
            Method::GET,
            "/api/v1/pods",
            &[("authorization", &bearer)],
            "",
        ),
    )
    .await;
    assert_eq!(answer.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_the_api_until_its_account_is_gone() {
    let cluster = Cluster::start().await;
    cluster.ok(&["create", "serviceaccount", "robot"]).await;
    let token = cluster.ok(&["create", "token", "robot"]).await;
    let bearer = format!("Bearer {token}");
    let ask = || {
        send(
            &cluster,
            true,
            request(
                Method::GET,
                "/api/v1/pods",
                &[("authorization", &bearer)],
                "",
            ),
        )
    };
    assert_eq!(ask().await.status, 200);
    let body =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let whoami = send(&cluster, true, request(Method::POST, path, &headers, body))
        .await
        .json();
    assert_eq!(
        whoami["status"]["userInfo"]["username"],
        "system:serviceaccount:default:robot"
    );
    cluster.ok(&["delete", "serviceaccount", "robot"]).await;
    cluster.ok(&["create", "serviceaccount", "robot"]).await;
    assert_eq!(
        ask().await.status,
        401,
        "another account of the same name is another account"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_token_dies_with_its_pod() {
    let cluster = Cluster::start().await;
    cluster.ok(&["run", "p", "--image=x"]).await;
    let token = cluster
        .ok(&[
            "create",
            "token",
            "default",
            "--bound-object-kind=Pod",
            "--bound-object-name=p",
        ])
        .await;
    let issuer = "https://kubernetes.default.svc.cluster.local";
    let status = review(&cluster, &token, &[issuer]).await;
    assert_eq!(
        status["user"]["extra"]["authentication.kubernetes.io/pod-name"],
        json!(["p"])
    );
    cluster.ok(&["delete", "pod", "p"]).await;
    let status = review(&cluster, &token, &[]).await;
    assert!(
        status["error"].as_str().unwrap().contains("pod p"),
        "{status}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_token_requests_name_the_field() {
    let cluster = Cluster::start().await;
    let short = cluster
        .fails(&["create", "token", "default", "--duration=1m"])
        .await;
    assert!(
        short.contains("may not specify a duration less than 10 minutes"),
        "{short}"
    );
    let nobody = cluster.fails(&["create", "token", "ghost"]).await;
    assert!(
        nobody.contains("serviceaccounts \"ghost\" not found"),
        "{nobody}"
    );
    let keys: Value =
        serde_json::from_str(&cluster.ok(&["get", "--raw", "/openid/v1/jwks"]).await).unwrap();
    assert_eq!(keys["keys"][0]["alg"], "ES256");
    let discovery = cluster
        .ok(&["get", "--raw", "/.well-known/openid-configuration"])
        .await;
    assert!(discovery.contains("\"issuer\":\"https://kubernetes.default.svc.cluster.local\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_auth_tells_who_and_what() {
    let cluster = Cluster::start().await;
    let who = cluster.ok(&["auth", "whoami"]).await;
    assert!(
        who.contains("kubernetes-admin") && who.contains("system:masters"),
        "{who}"
    );
    assert_eq!(
        cluster.ok(&["auth", "can-i", "create", "pods"]).await,
        "yes"
    );
    assert!(
        cluster
            .ok(&["auth", "can-i", "--list"])
            .await
            .contains("*.*")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_acts_as_somebody_else() {
    let cluster = Cluster::start().await;
    let who = cluster
        .ok(&["auth", "whoami", "--as=jane", "--as-group=ops"])
        .await;
    assert!(who.contains("jane") && who.contains("ops"), "{who}");
    assert!(!who.contains("kubernetes-admin"), "{who}");
    let refused = cluster
        .fails(&["get", "--raw", "/api/v1/pods", "--as=system:anonymous"])
        .await;
    assert!(
        refused.contains(r#"User "system:anonymous" cannot list resource "pods""#),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn subject_access_reviews_tell_the_policy() {
    let cluster = Cluster::start().await;
    let headers = [("content-type", "application/json")];
    let ask = |spec: Value| {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec,
        });
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let request = request(Method::POST, path, &headers, review.to_string());
        send(&cluster, false, request)
    };
    let list = json!({"verb": "list", "resource": "pods", "namespace": "default"});
    let known = ask(json!({"user": "jane", "resourceAttributes": list})).await;
    assert_eq!(known.status, 201, "{:?}", known.body);
    assert_eq!(known.json()["status"]["allowed"], true);
    let stranger = ask(json!({"user": "system:anonymous", "resourceAttributes": list})).await;
    assert_eq!(stranger.json()["status"]["allowed"], false);
    let nobody = ask(json!({"resourceAttributes": list})).await;
    assert_eq!(nobody.status, 400, "{:?}", nobody.body);
}
