"""TF-IDF of words and pairs of words, with logistic regression."""

import sys
from pathlib import Path

import joblib
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

train, new, _, out = map(Path, sys.argv[1:5])
examples, texts = (pd.read_csv(path, dtype=str, keep_default_na=False) for path in (train, new))
columns = list(texts.columns)
vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
pipeline = make_pipeline(vectorizer, LogisticRegression(max_iter=1000))
search = GridSearchCV(pipeline, {"logisticregression__C": [0.3, 1, 3, 10, 30]})
search.fit(examples[columns].agg(" ".join, axis=1), examples["label"])
(out / "model").mkdir()
joblib.dump(search.best_estimator_, out / "model" / "model.joblib")
predicted = search.predict(texts.agg(" ".join, axis=1))
pd.DataFrame({"prediction": predicted}).to_csv(out / "predictions.csv", index=False)
print(search.best_params_)
