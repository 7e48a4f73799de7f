//! Graphs that every daemon can read.

use crate::pb::Definition;

impl Definition {
    /// Leaves out the places of steps that have none.
    ///
    /// prost does not write the value of a map entry that is empty, and daemons before 0.14 take such an entry for
    /// one without a message: they crash on it. A step without an entry means the same to all of them.
    pub fn omit_empty_locations(&mut self) {
        let mut open = vec![self];
        while let Some(definition) = open.pop() {
            let Some(source) = &mut definition.source else { continue };
            source.locations.retain(|_, places| !places.locations.is_empty());
            open.extend(source.infos.iter_mut().filter_map(|info| info.definition.as_mut()));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::pb::{Definition, Location, Locations, Source, SourceInfo};

    #[test]
    fn only_places_are_sent() {
        let source = |infos| Source {
            locations: [
                ("none".to_owned(), Locations::default()),
                ("one".to_owned(), Locations { locations: vec![Location::default()] }),
            ]
            .into(),
            infos,
        };
        let inner = Definition { source: Some(source(Vec::new())), ..Default::default() };
        let info = SourceInfo { definition: Some(inner), ..Default::default() };
        let mut outer = Definition { source: Some(source(vec![info])), ..Default::default() };
        outer.omit_empty_locations();
        let outer = outer.source.unwrap();
        let inner = outer.infos[0].definition.as_ref().and_then(|inner| inner.source.as_ref()).unwrap();
        for source in [&outer, inner] {
            assert_eq!(source.locations.keys().collect::<Vec<_>>(), ["one"]);
        }
    }
}
