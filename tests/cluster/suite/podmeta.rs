//! Tests of podmeta on a cluster, installed with its chart. Agents are queried through their debug socket.

mod agent_authorization;
mod attacks;
mod certificates;
mod chart;
mod churn;
mod crd_validation;
mod dev_server_parity;
mod doc_commands;
mod faulty_objects;
mod first_requests;
mod fixtures;
mod handovers;
mod identity_documents;
mod large_objects;
mod links;
mod load;
mod mirror_pods;
mod network_policies;
mod outages;
mod quickstart;
mod real_clients;
mod rollouts;
mod secrets;
mod status_conditions;
mod uninstall;
mod user_shell;
