//! Tables of nftables: written in one transaction, without the program `nft`.

pub(crate) mod expression;
mod transport;

use std::io;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NetlinkMessage};
use netlink_packet_netfilter::NetfilterMessage;
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, ExpressionAttribute, Expressions, Hook, InetHookNumber, ListAttribute,
    NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute, SetDescription, SetFlags, SetMessage, TableAttribute,
    TableMessage,
};

use crate::netns::Netns;

/// Policy that accepts. Source: `NF_ACCEPT` in linux/netfilter.h.
const NF_ACCEPT: u32 = 1;

/// Time in milliseconds after which an interface leaves a [`RateSet`].
const RATE_SET_TIMEOUT: u64 = 60_000;

/// Maximum number of interfaces in a [`RateSet`].
const RATE_SET_SIZE: u32 = 4096;

/// A table of the family `inet`.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// Sets that hold a rate for each interface.
    pub(crate) rate_sets: Vec<RateSet>,
    pub(crate) chains: Vec<Chain>,
}

/// A set of interfaces, each with the state of a rate limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateSet {
    pub(crate) name: &'static str,
    /// Identifies the set in the transaction.
    pub(crate) id: u32,
}

/// A chain with the policy `accept`.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    pub(crate) hook: InetHookNumber,
    /// Chains of a lower priority run first.
    pub(crate) priority: i32,
    pub(crate) rules: Vec<Vec<Expressions>>,
}

/// Replaces a table unless it is complete. Returns the number of tables that were written: 0 or 1.
pub(crate) fn ensure(netns: &Netns, table: &Table) -> io::Result<usize> {
    let socket = transport::open(netns)?;
    if is_complete(&transport::dump_rules(&socket, rules_request(table.name))?, table) {
        return Ok(0);
    }
    let mut changes = vec![create(table.name), delete(table.name), create(table.name)];
    changes.extend(table.rate_sets.iter().map(|set| rate_set(table.name, *set)));
    for chain in &table.chains {
        changes.push(transport::message(chain_message(table.name, chain), NLM_F_CREATE));
        let rules = chain.rules.iter().map(|expressions| rule(table.name, chain.name, expressions));
        changes
            .extend(rules.map(|rule| transport::message(NfTablesMessage::NewRule(rule), NLM_F_CREATE | NLM_F_APPEND)));
    }
    transport::commit(&socket, changes)?;
    Ok(1)
}

/// Removes a table. Succeeds if it does not exist.
pub(crate) fn remove(netns: &Netns, name: &str) -> io::Result<()> {
    transport::commit(&transport::open(netns)?, vec![create(name), delete(name)])
}

/// Returns true if a table has exactly its rules, in their order. A foreign rule before ours could accept a packet.
fn is_complete(found: &[RuleMessage], table: &Table) -> bool {
    let rules =
        |chain: &Chain| chain.rules.iter().map(|rule| self::rule(table.name, chain.name, rule)).collect::<Vec<_>>();
    let wanted = table.chains.iter().flat_map(rules).collect::<Vec<_>>();
    found.iter().map(essence).eq(wanted.iter().map(essence))
}

/// Returns the chain and the expressions of a rule. The kernel adds a handle, a position, and the state of counters and
/// limits, so that only the type of these expressions is compared.
fn essence(rule: &RuleMessage) -> (Option<&str>, Vec<String>) {
    let chain = rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Chain(name) => Some(name.as_str()),
        _ => None,
    });
    let expressions = rule.attributes.iter().filter_map(|attribute| match attribute {
        RuleAttribute::Expressions(expressions) => Some(expressions),
        _ => None,
    });
    let attributes = expressions.flatten().filter_map(|expression| match expression {
        ListAttribute::Element(attributes) => Some(attributes),
        _ => None,
    });
    let text = attributes.flatten().filter_map(|attribute| match attribute {
        ExpressionAttribute::Name(name) => Some(name.clone()),
        ExpressionAttribute::Data(Expressions::Other { .. }) => None,
        ExpressionAttribute::Data(expression) => Some(format!("{expression:?}")),
        _ => None,
    });
    (chain, text.collect())
}

fn rules_request(table: &str) -> NetlinkMessage<NetfilterMessage> {
    let rules = RuleMessage { attributes: vec![RuleAttribute::Table(table.to_owned())] };
    transport::message(NfTablesMessage::GetRule(rules), NLM_F_DUMP)
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

fn chain_message(table: &str, chain: &Chain) -> NfTablesMessage {
    let hook = vec![Hook::Number(chain.hook.into()), Hook::Priority(chain.priority.cast_unsigned())];
    NfTablesMessage::NewChain(ChainMessage {
        attributes: vec![
            ChainAttribute::Table(table.to_owned()),
            ChainAttribute::Name(chain.name.to_owned()),
            ChainAttribute::Hook(hook),
            ChainAttribute::Policy(NF_ACCEPT),
            ChainAttribute::Type("filter".to_owned()),
        ],
    })
}

fn rate_set(table: &str, set: RateSet) -> NetlinkMessage<NetfilterMessage> {
    let set = SetMessage {
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
    };
    transport::message(NfTablesMessage::NewSet(set), NLM_F_CREATE)
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
