"""From a composed config to objects and names."""
