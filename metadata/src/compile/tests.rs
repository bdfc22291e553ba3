//! Tests of compilation, one file per area.

mod choice;
mod claims;
mod host_network;
mod instance;
mod items;
mod limits;
mod policies;
mod size;
mod static_pods;
mod tags;
mod user_data;
mod without_profile;
