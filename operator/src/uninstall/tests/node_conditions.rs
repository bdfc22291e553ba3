//! The deletion of the condition of nodes.

use super::*;

/// Returns a node with the condition of podmeta.
fn guarded_node(name: &str) -> Value {
    let condition = json!({"type": "podmeta.dev/Guarded", "status": "True"});
    json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": "True"}, condition]}})
}

/// Responds to the deletion of the condition of a node, and checks that no other condition is deleted.
async fn delete_condition(server: &mut FakeApiServer, node: &str, status_code: StatusCode) {
    let patch = server.expect(Method::PATCH, &format!("{NODES}/{node}/status")).await;
    let conditions = json!([{"type": "podmeta.dev/Guarded", "$patch": "delete"}]);
    assert_eq!(patch.body, json!({"status": {"conditions": conditions}}));
    match status_code {
        StatusCode::OK => patch.respond(&json!({"metadata": {"name": node}})),
        code => patch.respond_error(code),
    }
}

#[tokio::test(start_paused = true)]
async fn condition_is_deleted_from_the_nodes_that_have_it_after_the_operator_has_ended() {
    let (mut server, result) = start();
    delete_agents_and_operator(&mut server).await;
    let nodes = [guarded_node("a"), json!({"metadata": {"name": "b"}}), guarded_node("c")];
    server.expect(Method::GET, NODES).await.respond(&node_list(&nodes));
    delete_condition(&mut server, "a", StatusCode::OK).await;
    delete_condition(&mut server, "c", StatusCode::NOT_FOUND).await;
    server.expect(Method::GET, LINK).await.respond_error(StatusCode::NOT_FOUND);
    result.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn condition_that_cannot_be_deleted_fails_the_uninstallation_after_the_nodes_are_clean() {
    let (mut server, result) = start();
    delete_agents_and_operator(&mut server).await;
    server.expect(Method::GET, NODES).await.respond(&node_list(&[guarded_node("a"), guarded_node("b")]));
    delete_condition(&mut server, "a", StatusCode::FORBIDDEN).await;
    delete_condition(&mut server, "b", StatusCode::OK).await;
    switch_links(&mut server).await;
    report(&mut server, &link_daemon_set(1, 2, 2), &[pod("a", LinkPod::Clean)]).await;
    list_nodes(&mut server, &["a"]).await;
    let error = result.await.unwrap().unwrap_err().to_string();
    assert_eq!(error, "the condition podmeta.dev/Guarded is not deleted from these nodes: a");
}
