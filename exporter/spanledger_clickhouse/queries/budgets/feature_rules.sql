SELECT feature, downgrade, pinned, critical, max_input_tokens, max_output_tokens FROM feature_rules FINAL ORDER BY feature
