//! Tables of nftables: written in one transaction, without the program `nft`.

mod compare;
pub(crate) mod expression;
mod table;
mod transport;

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NetlinkMessage};
use netlink_packet_netfilter::NetfilterMessage;
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Expressions, Hook, NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute,
    SetDescription, SetFlags, SetMessage, TableAttribute, TableMessage,
};
use netlink_sys::Socket;

pub(crate) use table::{Chain, RateSet, Table};

use crate::netns::Netns;

/// Policy that accepts. Source: `NF_ACCEPT` in linux/netfilter.h.
const NF_ACCEPT: u32 = 1;

/// Time in milliseconds after which an interface leaves a [`RateSet`].
const RATE_SET_TIMEOUT: u64 = 60_000;

/// Maximum number of interfaces in a [`RateSet`].
const RATE_SET_SIZE: u32 = 4096;

/// Replaces a table unless it is complete. Returns the number of tables that were written: 0 or 1.
pub(crate) fn ensure(netns: &Netns, table: &Table) -> io::Result<usize> {
    let socket = transport::open(netns)?;
    let objects = objects(table);
    if compare::is_same(&read(&socket, table)?, &objects) {
        return Ok(0);
    }
    let mut changes = vec![create(table.name), delete(table.name)];
    changes.extend(objects.into_iter().map(|object| {
        let position = if matches!(object, NfTablesMessage::NewRule(_)) { NLM_F_APPEND } else { 0 };
        transport::message(object, NLM_F_CREATE | position)
    }));
    transport::commit(&socket, changes)?;
    Ok(1)
}

/// Removes a table. Succeeds if it does not exist.
pub(crate) fn remove(netns: &Netns, name: &str) -> io::Result<()> {
    transport::commit(&transport::open(netns)?, vec![create(name), delete(name)])
}

/// Sends a request that changes nothing. Fails if the kernel has no nftables.
pub(crate) fn probe(netns: &Netns) -> io::Result<()> {
    let request = transport::message(NfTablesMessage::GetTable(table_message("podmeta")), NLM_F_ACK);
    transport::query(&transport::open(netns)?, request).map(drop)
}

/// Returns the objects of a table, in the order of their addition: the table, its sets, its chains and all rules.
fn objects(table: &Table) -> Vec<NfTablesMessage> {
    let mut objects = vec![NfTablesMessage::NewTable(table_message(table.name))];
    objects.extend(table.rate_sets.iter().map(|set| NfTablesMessage::NewSet(rate_set(table.name, *set))));
    objects.extend(table.chains.iter().map(|chain| NfTablesMessage::NewChain(chain_message(table.name, chain))));
    for chain in &table.chains {
        let rules = chain.rules.iter().map(|expressions| rule(table.name, chain.name, expressions));
        objects.extend(rules.map(NfTablesMessage::NewRule));
    }
    objects
}

/// Reads the objects of a table from the kernel, in the order of [`objects`]. An object that does not exist is left out.
/// One that cannot be parsed is `None`.
fn read(socket: &Socket, table: &Table) -> io::Result<Vec<Option<NfTablesMessage>>> {
    let mut requests = vec![(NfTablesMessage::GetTable(table_message(table.name)), NLM_F_ACK)];
    requests.extend(table.rate_sets.iter().map(|set| {
        let attributes = vec![SetAttribute::Table(table.name.to_owned()), SetAttribute::Name(set.name.to_owned())];
        (NfTablesMessage::GetSet(SetMessage { attributes }), NLM_F_ACK)
    }));
    requests.extend(table.chains.iter().map(|chain| {
        let attributes =
            vec![ChainAttribute::Table(table.name.to_owned()), ChainAttribute::Name(chain.name.to_owned())];
        (NfTablesMessage::GetChain(ChainMessage { attributes }), NLM_F_ACK)
    }));
    let rules = RuleMessage { attributes: vec![RuleAttribute::Table(table.name.to_owned())] };
    requests.push((NfTablesMessage::GetRule(rules), NLM_F_DUMP));
    let mut found = Vec::new();
    for (request, flags) in requests {
        found.extend(transport::query(socket, transport::message(request, flags))?);
    }
    Ok(found)
}

fn create(table: &str) -> NetlinkMessage<NetfilterMessage> {
    transport::message(NfTablesMessage::NewTable(table_message(table)), NLM_F_CREATE)
}

fn delete(table: &str) -> NetlinkMessage<NetfilterMessage> {
    transport::message(NfTablesMessage::DeleteTable(table_message(table)), 0)
}

fn table_message(name: &str) -> TableMessage {
    TableMessage { attributes: vec![TableAttribute::Name(name.to_owned())] }
}

fn chain_message(table: &str, chain: &Chain) -> ChainMessage {
    let hook = vec![Hook::Number(chain.hook.into()), Hook::Priority(chain.priority.cast_unsigned())];
    ChainMessage {
        attributes: vec![
            ChainAttribute::Table(table.to_owned()),
            ChainAttribute::Name(chain.name.to_owned()),
            ChainAttribute::Hook(hook),
            ChainAttribute::Policy(NF_ACCEPT),
            ChainAttribute::Type("filter".to_owned()),
        ],
    }
}

fn rate_set(table: &str, set: RateSet) -> SetMessage {
    SetMessage {
        attributes: vec![
            SetAttribute::Table(table.to_owned()),
            SetAttribute::Name(set.name.to_owned()),
            SetAttribute::Id(set.id),
            SetAttribute::Flags(SetFlags::Eval | SetFlags::Timeout),
            SetAttribute::KeyType(expression::INTERFACE_TYPE),
            SetAttribute::KeyLen(4),
            SetAttribute::Timeout(RATE_SET_TIMEOUT),
            SetAttribute::Description(vec![SetDescription::Size(RATE_SET_SIZE)]),
        ],
    }
}

fn rule(table: &str, chain: &str, expressions: &[Expressions]) -> RuleMessage {
    RuleMessage {
        attributes: vec![
            RuleAttribute::Table(table.to_owned()),
            RuleAttribute::Chain(chain.to_owned()),
            RuleAttribute::Expressions(expressions.iter().cloned().map(Into::into).collect()),
        ],
    }
}
