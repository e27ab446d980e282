"""What operators declare: strict YAML files, JSON Schemas, tools and servers. It never dials, runs or reads a clock."""
