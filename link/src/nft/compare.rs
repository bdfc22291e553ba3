//! Compares a table of the kernel with the wanted one. Pure.

use netlink_packet_core::{NLA_TYPE_MASK, Nla as _};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ExpressionAttribute, Expressions, ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage,
    SetAttribute, TableAttribute,
};

/// Returns true if the kernel has exactly these objects of a table, and these rules in their order. A foreign rule before
/// ours could accept a packet. `found` holds `None` for a message that cannot be parsed.
///
/// The kernel adds handles, counters and defaults: they are not compared.
pub(super) fn is_same(found: &[Option<NfTablesMessage>], wanted: &[NfTablesMessage]) -> bool {
    found.len() == wanted.len()
        && found.iter().zip(wanted).all(|(found, wanted)| found.as_ref().is_some_and(|found| is_equal(found, wanted)))
}

fn is_equal(found: &NfTablesMessage, wanted: &NfTablesMessage) -> bool {
    match (found, wanted) {
        (NfTablesMessage::NewTable(found), NfTablesMessage::NewTable(wanted)) => {
            // A table with a flag can be dormant: its chains do not run.
            let has_flags =
                |attribute: &TableAttribute| matches!(attribute, TableAttribute::Flags(flags) if !flags.is_empty());
            has_all(&found.attributes, &wanted.attributes) && !found.attributes.iter().any(has_flags)
        }
        (NfTablesMessage::NewChain(found), NfTablesMessage::NewChain(wanted)) => {
            has_all::<ChainAttribute>(&found.attributes, &wanted.attributes)
        }
        (NfTablesMessage::NewSet(found), NfTablesMessage::NewSet(wanted)) => {
            // The ID exists in the transaction only.
            let wanted = wanted.attributes.iter().filter(|attribute| !matches!(attribute, SetAttribute::Id(_)));
            has_all(&found.attributes, wanted)
        }
        (NfTablesMessage::NewRule(found), NfTablesMessage::NewRule(wanted)) => essence(found) == essence(wanted),
        _ => false,
    }
}

fn has_all<'a, A: PartialEq + 'a>(found: &[A], wanted: impl IntoIterator<Item = &'a A>) -> bool {
    wanted.into_iter().all(|attribute| found.contains(attribute))
}

/// Returns the chain and the expressions of a rule, without the state of counters.
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
        ExpressionAttribute::Data(Expressions::Other { expression_type, attributes }) => {
            Some(format!("{:?}", settings(expression_type, attributes)))
        }
        ExpressionAttribute::Data(expression) => Some(format!("{expression:?}")),
        _ => None,
    });
    (chain, text.collect())
}

/// Returns kinds and values of an expression that this crate writes itself, in order of kinds. A value of zeros is left
/// out: it is the default, which the kernel returns even if it was not set.
fn settings(expression_type: &str, attributes: &[netlink_packet_core::DefaultNla]) -> Vec<(u16, Vec<u8>)> {
    /// Kind of the ID that a set has in the transaction only. Source: `NFTA_DYNSET_SET_ID` in nf_tables.h.
    const DYNSET_SET_ID: u16 = 2;
    if expression_type == "counter" {
        return Vec::new();
    }
    let mut settings = attributes
        .iter()
        .map(|attribute| {
            let mut value = vec![0; attribute.value_len()];
            attribute.emit_value(&mut value);
            (attribute.kind() & NLA_TYPE_MASK, value)
        })
        .filter(|(kind, value)| {
            value.iter().any(|byte| *byte != 0) && (expression_type, *kind) != ("dynset", DYNSET_SET_ID)
        })
        .collect::<Vec<_>>();
    settings.sort();
    settings
}

#[cfg(test)]
mod tests {
    use netlink_packet_netfilter::nftables::{InetHookNumber, TableFlags};

    use super::super::{Chain, RateSet, Table, expression, objects};
    use super::*;

    const RATES: RateSet = RateSet { name: "rates", id: 1 };

    /// Returns a table with a rate limit and a rule.
    fn table(rate: u64, burst: u32) -> Table {
        let rules = vec![
            vec![expression::equal([1]), expression::over_rate(RATES, rate, burst), expression::drop_packet()],
            vec![expression::has_fragment_header(), expression::counter(), expression::drop_packet()],
        ];
        let chain = Chain { name: "chain", hook: InetHookNumber::PreRouting, priority: -310, rules };
        Table { name: "table", rate_sets: vec![RATES], chains: vec![chain] }
    }

    fn found(table: &Table) -> Vec<Option<NfTablesMessage>> {
        objects(table).into_iter().map(Some).collect()
    }

    #[test]
    fn equal_table_is_the_same_with_what_the_kernel_adds() {
        let wanted = objects(&table(10, 20));
        let mut found = found(&table(10, 20));
        for object in found.iter_mut().flatten() {
            match object {
                NfTablesMessage::NewTable(table) => {
                    table.attributes.extend([TableAttribute::Handle(7), TableAttribute::Flags(TableFlags::empty())]);
                }
                NfTablesMessage::NewSet(set) => {
                    set.attributes.retain(|attribute| !matches!(attribute, SetAttribute::Id(_)));
                    set.attributes.push(SetAttribute::Handle(7));
                }
                NfTablesMessage::NewChain(chain) => chain.attributes.push(ChainAttribute::Handle(7)),
                NfTablesMessage::NewRule(rule) => rule.attributes.push(RuleAttribute::Handle(7)),
                _ => {}
            }
        }
        assert!(is_same(&found, &wanted));
    }

    #[test]
    fn changed_chain_rule_or_limit_is_not_the_same() {
        let wanted = objects(&table(10, 20));
        let change = |change: fn(&mut Table)| {
            let mut table = table(10, 20);
            change(&mut table);
            found(&table)
        };
        let changes = [
            ("priority", change(|table| table.chains[0].priority = 10)),
            ("hook", change(|table| table.chains[0].hook = InetHookNumber::Forward)),
            ("chain is missing", change(|table| table.chains.clear())),
            ("set is missing", change(|table| table.rate_sets.clear())),
            ("rule is missing", change(|table| drop(table.chains[0].rules.pop()))),
            ("foreign rule", change(|table| table.chains[0].rules.push(vec![expression::drop_packet()]))),
            ("order of rules", change(|table| table.chains[0].rules.reverse())),
            ("verdict", change(|table| drop(table.chains[0].rules[1].pop()))),
            ("rate", found(&table(11, 20))),
            ("burst", found(&table(10, 21))),
            ("nothing", Vec::new()),
        ];
        for (name, found) in changes {
            assert!(!is_same(&found, &wanted), "{name}");
        }
    }

    #[test]
    fn dormant_table_changed_set_or_unknown_object_is_not_the_same() {
        let wanted = objects(&table(10, 20));
        let change = |n: usize, change: fn(&mut NfTablesMessage)| {
            let mut found = found(&table(10, 20));
            found[n].as_mut().into_iter().for_each(change);
            found
        };
        let dormant = change(0, |object| {
            if let NfTablesMessage::NewTable(table) = object {
                table.attributes.push(TableAttribute::Flags(TableFlags::Dormant));
            }
        });
        let timeout = change(1, |object| {
            if let NfTablesMessage::NewSet(set) = object {
                let timeout = set.attributes.iter_mut().find(|attribute| matches!(attribute, SetAttribute::Timeout(_)));
                *timeout.unwrap() = SetAttribute::Timeout(1);
            }
        });
        let mut unknown = found(&table(10, 20));
        unknown[2] = None;
        for (name, found) in [("dormant", dormant), ("timeout", timeout), ("unknown", unknown)] {
            assert!(!is_same(&found, &wanted), "{name}");
        }
    }
}
