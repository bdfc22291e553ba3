//! Tests of podmeta on a cluster, installed with its chart. Agents are queried through their debug socket.

mod agent_authorization;
mod certificates;
mod chart;
mod crd_validation;
mod dev_server_parity;
mod faulty_objects;
mod fixtures;
mod identity_documents;
mod large_objects;
mod links;
mod mirror_pods;
mod network_policies;
mod outages;
mod quickstart;
mod real_clients;
mod rollouts;
mod secrets;
mod status_conditions;
mod uninstall;
