"""What training and separation cost, beside other projects' networks."""
