if(match(ifNull(toString(`{column}`), ''), '^[\\pC\\pZ]*[=+@＝＋－＠\\t\\r\\n-]'),
    concat('\'', replaceRegexpAll(toString(`{column}`), '\\pC', '')), replaceRegexpAll(toString(`{column}`), '\\pC', '')) AS `{column}`
