lower(c.finish_reasons[1]) IN ('length', 'max_tokens', 'max_output_tokens', 'model_context_window_exceeded', 'incomplete')
