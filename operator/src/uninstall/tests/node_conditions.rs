//! The deletion of the condition of nodes.

use super::*;

/// Returns a node with the condition of podmeta. Another condition has a time that client libraries cannot parse.
fn guarded_node(name: &str) -> Value {
    let unreadable = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": "9999-12-31T23:59:59Z"});
    let condition = json!({"type": "podmeta.dev/Guarded", "status": "True"});
    json!({"metadata": {"name": name}, "status": {"conditions": [unreadable, condition]}})
}

/// Returns the deletion of the condition of a node. Checks that no other condition is deleted.
async fn expect_deletion(server: &mut FakeApiServer, node: &str) -> FakeRequest {
    let patch = server.expect(Method::PATCH, &format!("{NODES}/{node}/status")).await;
    let conditions = json!([{"type": "podmeta.dev/Guarded", "$patch": "delete"}]);
    assert_eq!(patch.body, json!({"status": {"conditions": conditions}}));
    patch
}

#[tokio::test(start_paused = true)]
async fn condition_is_deleted_from_the_nodes_that_have_it_on_every_page() {
    let (mut server, result) = start();
    stop_agents(&mut server).await;
    server.expect(Method::GET, LINK).await.respond_error(StatusCode::NOT_FOUND);
    let first = server.expect(Method::GET, NODES).await;
    assert!(first.query.contains("limit=100"), "{}", first.query);
    let mut page = node_list(&[guarded_node("a"), json!({"metadata": {"name": "b"}})]);
    page["metadata"]["continue"] = json!("token");
    first.respond(&page);
    let second = server.expect(Method::GET, NODES).await;
    assert!(second.query.contains("continue=token"), "{}", second.query);
    second.respond(&node_list(&[guarded_node("c")]));
    let deletions = [expect_deletion(&mut server, "a").await, expect_deletion(&mut server, "c").await];
    for (patch, name) in deletions.into_iter().zip(["a", "c"]) {
        patch.respond(&guarded_node(name));
    }
    result.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn condition_that_cannot_be_deleted_does_not_stop_the_uninstallation() {
    let (mut server, result) = start();
    stop_agents(&mut server).await;
    switch_links(&mut server).await;
    let nodes = server.expect(Method::GET, NODES).await;
    report(&mut server, &link_daemon_set(1, 2, 2), &[pod("a", LinkPod::Old)]).await;
    nodes.respond(&node_list(&[guarded_node("a"), guarded_node("b")]));
    expect_deletion(&mut server, "a").await.respond_error(StatusCode::FORBIDDEN);
    expect_deletion(&mut server, "b").await.respond_error(StatusCode::NOT_FOUND);
    report(&mut server, &link_daemon_set(1, 2, 2), &[pod("a", LinkPod::Clean)]).await;
    list_nodes(&mut server, &["a"]).await;
    result.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn conditions_that_take_too_long_delay_the_end_for_40_seconds_at_most() {
    let (mut server, result) = start();
    stop_agents(&mut server).await;
    switch_links(&mut server).await;
    let started = Instant::now();
    let mut unanswered = vec![server.expect(Method::GET, NODES).await];
    report(&mut server, &link_daemon_set(1, 2, 2), &[pod("a", LinkPod::Clean)]).await;
    loop {
        let request = server.expect(Method::GET, NODES).await;
        if !request.query.contains("limit=100") {
            break request.respond_error(StatusCode::FORBIDDEN);
        }
        unanswered.push(request);
    }
    assert_eq!(started.elapsed().as_secs(), 40);
    result.await.unwrap().unwrap();
}
