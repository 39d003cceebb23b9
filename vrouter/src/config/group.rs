//! Next-hop groups: routes that lead to the same next hops share one.

use std::{collections::HashMap, sync::Arc};

use crate::{fib::GroupIndex, next_hop::NextHopIndex};

type Members = Arc<[NextHopIndex]>;

/// Groups and how many routes use each. A clone shares everything until it changes.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups {
    /// By [`GroupIndex`]; a snapshot shares this table.
    members: Arc<Vec<Members>>,
    uses: Arc<Uses>,
}

#[derive(Clone, Debug, Default)]
struct Uses {
    by_members: HashMap<Members, GroupIndex>,
    /// Routes by [`GroupIndex`].
    routes: Vec<usize>,
    /// Groups by member.
    groups_of: HashMap<NextHopIndex, usize>,
    free: Vec<GroupIndex>,
}

impl Groups {
    pub(super) fn members(&self) -> &Arc<Vec<Members>> {
        &self.members
    }

    pub(super) fn members_of(&self, group: GroupIndex) -> &[NextHopIndex] {
        self.members.get(group.0 as usize).map_or(&[], |members| members)
    }

    /// Whether some route leads there.
    pub(super) fn is_used(&self, next_hop: NextHopIndex) -> bool {
        self.uses.groups_of.contains_key(&next_hop)
    }

    /// The group of these members, for one more route.
    pub(super) fn acquire(&mut self, members: &[NextHopIndex]) -> GroupIndex {
        let uses = Arc::make_mut(&mut self.uses);
        if let Some(group) = uses.by_members.get(members) {
            if let Some(routes) = uses.routes.get_mut(group.0 as usize) {
                *routes += 1;
            }
            return *group;
        }
        let members: Members = members.into();
        for member in &*members {
            *uses.groups_of.entry(*member).or_insert(0) += 1;
        }
        let table = Arc::make_mut(&mut self.members);
        let group = uses.free.pop().unwrap_or_else(|| {
            table.push(Arc::clone(&members));
            uses.routes.push(0);
            GroupIndex(u32::try_from(table.len() - 1).unwrap_or(u32::MAX))
        });
        table[group.0 as usize] = Arc::clone(&members);
        uses.routes[group.0 as usize] = 1;
        uses.by_members.insert(members, group);
        group
    }

    /// One route less.
    pub(super) fn release(&mut self, group: GroupIndex) {
        let uses = Arc::make_mut(&mut self.uses);
        let Some(routes) = uses.routes.get_mut(group.0 as usize) else { return };
        *routes -= 1;
        if *routes > 0 {
            return;
        }
        let Some(members) = self.members.get(group.0 as usize) else { return };
        uses.by_members.remove(members);
        for member in &**members {
            if let Some(groups) = uses.groups_of.get_mut(member) {
                *groups -= 1;
                if *groups == 0 {
                    uses.groups_of.remove(member);
                }
            }
        }
        uses.free.push(group);
    }
}

#[cfg(test)]
mod tests {
    use super::Groups;
    use crate::next_hop::NextHopIndex;

    #[test]
    fn routes_to_the_same_next_hops_share_a_group() {
        let (a, b) = (NextHopIndex(5), NextHopIndex(6));
        let mut groups = Groups::default();
        let both = groups.acquire(&[a, b]);
        assert_eq!(groups.acquire(&[a, b]), both);
        assert_ne!(groups.acquire(&[a]), both);
        groups.release(both);
        assert!(groups.is_used(b));
        groups.release(both);
        assert!(!groups.is_used(b));
        assert!(groups.is_used(a));
        assert_eq!(groups.acquire(&[b]), both, "a freed group is used again");
    }
}
