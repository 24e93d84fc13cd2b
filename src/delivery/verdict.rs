//! The verdict table: provider, phase, reply code, enhanced code and text -> scope and action, with a
//! diagnosis in plain words and the remedy. The whole policy, as data. Pure.
