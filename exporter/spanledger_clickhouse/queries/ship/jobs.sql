SELECT provider, job_id, server, tenant_id, parent_id, began_at, attribution
FROM {db}.llm_jobs FINAL
WHERE job_id IN {ids:Array(String)} AND ({tenant:String} = '' OR tenant_id = {tenant:String})
